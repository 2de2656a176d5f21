# The build stage installs the packages and compiles the code, so that pip's leftovers stay there.
# Both stages: python:3.13.15-slim-trixie, for every platform. docs/releasing.md says how to move the pin.
FROM python:3.13-slim@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b AS build
WORKDIR /app
COPY requirements.txt ./
# Without requirements-embedded.txt: in a container, DATABASE_URL names the database.
RUN python -m venv .venv \
    && .venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.txt
COPY manage.py pyproject.toml ./
COPY reservoir_site reservoir_site
COPY console console
COPY conversations conversations
COPY proxy proxy
COPY access access
# Compiled here, as the running container can write no byte code.
RUN python -m compileall -q --invalidation-mode unchecked-hash reservoir_site console conversations access proxy

FROM python:3.13-slim@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b
LABEL org.opencontainers.image.title="Reservoir" \
      org.opencontainers.image.description="An OpenAI-compatible memory proxy: change the base URL, and conversations have a memory." \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/library/python:3.13-slim" \
      org.opencontainers.image.base.digest="sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b"
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PATH=/app/.venv/bin:$PATH \
    RESERVOIR_HOME=/var/lib/reservoir
WORKDIR /app
RUN useradd --system --uid 10001 --home-dir /var/lib/reservoir --create-home --shell /usr/sbin/nologin reservoir \
    && chmod 0700 /var/lib/reservoir
COPY --from=build /app /app
USER 10001
VOLUME /var/lib/reservoir
EXPOSE 3017
# Liveness only: a short outage of the database must not restart the container.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f\"http://127.0.0.1:{os.environ.get('RESERVOIR_PORT', '3017')}/live\", timeout=2)"]
# The server itself receives SIGTERM, finishes running answers, and stops.
STOPSIGNAL SIGTERM
CMD ["python", "manage.py", "serve"]
