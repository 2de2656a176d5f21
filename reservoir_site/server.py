"""Serving: what is made ready before the first request, and the web server."""

from __future__ import annotations

import errno
import os
import resource
import secrets
import socket
import time
from collections.abc import Callable

import uvicorn
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import DatabaseError, connection
from django.db.backends.utils import CursorWrapper

from console.roles import make_groups
from conversations.actions import interrupt_open_exchanges
from conversations.embedders.factory import make_embedder
from proxy.providers import configuration
from reservoir_site import database

EVERYWHERE = ("127.0.0.1", "0.0.0.0", "::", "::1")  # noqa: S104
MIGRATION_LOCK = 0x5265_7365  # of several servers that start at once, one migrates


def check_port() -> None:
    """See that nobody else listens where this server is to. Raises ImproperlyConfigured, with the remedy."""
    where, port = settings.RESERVOIR_BIND, settings.RESERVOIR_PORT
    try:
        family, kind, _, _, address = socket.getaddrinfo(where, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ImproperlyConfigured(
                f"Port {port} of {where} is in use: end what listens there, or set RESERVOIR_PORT to another."
            ) from None
        raise ImproperlyConfigured(
            f"Port {port} of {where} cannot be listened on ({error.strerror}): "
            "set RESERVOIR_BIND and RESERVOIR_PORT to what this machine has."
        ) from None


def prepare(say: Callable[[str], object]) -> None:
    """Check the configuration, start and migrate the database, and make the first admin.

    Raises ImproperlyConfigured or PostgresError, with the remedy.
    """
    try:
        configuration.from_environment(os.environ)
        make_embedder(
            settings.RESERVOIR_EMBEDDER,
            api_key=settings.RESERVOIR_EMBEDDER_KEY or None,
            dimensions=settings.RESERVOIR_EMBEDDER_DIMENSIONS or None,
        )
    except ValueError as error:
        raise ImproperlyConfigured(str(error)) from None

    def first_things() -> None:
        _check_language()
        _make_first_admin(say)
        make_groups()
        interrupt_open_exchanges()

    prepare_database(first_things)


def prepare_database(then: Callable[[], object] = lambda: None) -> None:
    """Start the database if need be and bring it up to date, one process at a time. Raises PostgresError."""
    database.reach()
    with connection.cursor() as cursor:
        # Asked again and again, never waited for: CREATE INDEX CONCURRENTLY waits for everybody who waits.
        while not _got_migration_lock(cursor):
            time.sleep(0.2)
        try:
            call_command("migrate", verbosity=0, interactive=False)
            then()
        finally:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [MIGRATION_LOCK])
    connection.close()


def _check_language() -> None:
    """Only the database knows which languages there are. Raises ImproperlyConfigured."""
    with connection.cursor() as cursor:
        try:
            cursor.execute("SELECT %s::regconfig", [settings.RESERVOIR_LANGUAGE])
        except DatabaseError:
            cursor.execute("SELECT string_agg(cfgname, ', ' ORDER BY cfgname) FROM pg_ts_config")
            (languages,) = cursor.fetchone() or ("",)
            raise ImproperlyConfigured(
                f"RESERVOIR_LANGUAGE is {settings.RESERVOIR_LANGUAGE!r}: write one of {languages}."
            ) from None


def _got_migration_lock(cursor: CursorWrapper) -> bool:
    cursor.execute("SELECT pg_try_advisory_lock(%s)", [MIGRATION_LOCK])
    (got,) = cursor.fetchone() or (False,)
    return bool(got)


def announce(say: Callable[[str], object]) -> None:
    """Where to point an app, and where to look."""
    host = settings.RESERVOIR_BIND if settings.RESERVOIR_BIND not in EVERYWHERE else "localhost"
    root = f"http://{host}:{settings.RESERVOIR_PORT}"
    say(f"Reservoir  {root}/v1/partition/{{partition}}/instance/{{instance}}")
    say(f"Admin      {root}/admin/   (login: {settings.RESERVOIR_HOME / 'admin_login'})")
    if settings.RESERVOIR_BIND not in ("127.0.0.1", "::1", "localhost"):
        say(f"Listening on {settings.RESERVOIR_BIND}: everybody who reaches this port can read every partition.")


def run() -> None:
    """Serve until told to stop. SIGTERM lets running answers finish within RESERVOIR_SHUTDOWN_SECONDS."""
    _allow_connections()
    uvicorn.run(
        "reservoir_site.asgi:application",
        host=settings.RESERVOIR_BIND,
        port=settings.RESERVOIR_PORT,
        workers=settings.RESERVOIR_WORKERS if settings.RESERVOIR_WORKERS > 1 else None,
        loop="auto",
        lifespan="on",
        ws="none",
        access_log=False,  # ours has no query strings
        log_config=None,
        server_header=False,
        date_header=False,  # the provider's is relayed
        proxy_headers=False,
        timeout_graceful_shutdown=settings.RESERVOIR_SHUTDOWN_SECONDS,
        backlog=2048,
    )


def _allow_connections() -> None:
    """A request takes two descriptors, client's and provider's; the usual limit of 1,024 is soon reached."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2**16 if hard == resource.RLIM_INFINITY else min(hard, 2**16)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _make_first_admin(say: Callable[[str], object]) -> None:
    users = get_user_model().objects
    if users.exists():
        return
    password = secrets.token_urlsafe(12)
    users.create_superuser("admin", password=password)
    login = settings.RESERVOIR_HOME / "admin_login"
    login.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    login.unlink(missing_ok=True)
    login.touch(mode=0o600)
    login.write_text(f"user admin\npassword {password}\n")
    say(f"First start: admin login  user admin  password {password}")
