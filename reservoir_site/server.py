"""Serving: preparation before the first request, and the web server."""

from __future__ import annotations

import atexit
import errno
import logging
import os
import resource
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable

import uvicorn
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import DatabaseError, connection
from django.db.backends.base.base import BaseDatabaseWrapper

from access import credentials
from access.credentials import CredentialProblem
from access.verifying import keys_exist, keys_existed, made_with_another_pepper
from console.roles import make_groups
from conversations import reranker
from conversations.direct import DIRECT, direct_connection
from conversations.embedders.factory import make_embedder
from conversations.locks import held
from proxy import metrics
from proxy.providers import configuration
from proxy.rules import rules_file
from reservoir_site import database, database_check, env, hosts
from reservoir_site.http_protocol import IDLE_SECONDS, DeadlineProtocol
from reservoir_site.postgres_folder import PostgresError

log = logging.getLogger(__name__)

EVERYWHERE = ("127.0.0.1", "0.0.0.0", "::", "::1")  # noqa: S104
MIGRATION_LOCK = 0x5265_7365  # if several servers start at once, one migrates


def check_port() -> None:
    """Check that the server's port is free. Raises ImproperlyConfigured, with the remedy."""
    where, port = settings.RESERVOIR_BIND, settings.RESERVOIR_PORT
    try:
        family, kind, _, _, address = socket.getaddrinfo(where, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ImproperlyConfigured(
                f"Port {port} of {where} is in use: stop the program that listens there, or change RESERVOIR_PORT."
            ) from None
        raise ImproperlyConfigured(
            f"The server cannot listen on port {port} of {where} ({error.strerror}): "
            "set RESERVOIR_LISTEN to an address of this machine, and RESERVOIR_PORT to a port that you may use."
        ) from None


def prepare(say: Callable[[str], object]) -> None:
    """Check the configuration, start and migrate the database, and make the first admin.

    Raises ImproperlyConfigured or PostgresError, with the remedy.
    """
    try:
        configuration.from_environment(env.environment)
        rules_file.from_environment(env.environment)
        make_embedder(
            settings.RESERVOIR_EMBEDDER,
            api_key=settings.RESERVOIR_EMBEDDER_KEY or None,
            dimensions=settings.RESERVOIR_EMBEDDER_DIMENSIONS or None,
        )
        reranker.configured()
    except ValueError as error:
        raise ImproperlyConfigured(str(error)) from None
    for sentence in env.unknown((*configuration.VARIABLES, rules_file.VARIABLE)):
        log.warning(sentence)

    def after_migrating() -> None:
        _check_language()
        _make_first_admin(say)
        make_groups()
        hosts.check_secret()
        _check_access()

    prepare_database(after_migrating)


def _check_access() -> None:
    """Raises ImproperlyConfigured if others reach the port without a key, or if keys could not be checked."""
    if not keys_exist() and not settings.RESERVOIR_OPEN_WITHOUT_KEYS:
        raise ImproperlyConfigured(
            f"Others may reach {settings.RESERVOIR_PUBLIC_URL or settings.RESERVOIR_BIND}, and there is no access key: "
            "make one with `manage.py key create NAME --partition NAME`; or set RESERVOIR_OPEN=yes to serve everybody."
        )
    if name := made_with_another_pepper():
        raise ImproperlyConfigured(
            f"The access key {name!r} was made with another RESERVOIR_KEY_PEPPER: set the one of the other servers, "
            "or rotate or revoke the key."
        )
    try:
        credentials.check()
    except CredentialProblem as problem:
        raise ImproperlyConfigured(str(problem)) from None


def prepare_database(then: Callable[[], object] = lambda: None) -> None:
    """Start the database if needed, migrate it and call `then`, one process at a time. Raises PostgresError."""
    database.reach()
    with held(MIGRATION_LOCK, wait=True):
        _migrate()
        then()
    connection.close()


def _migrate() -> None:
    """Migrate, past a pooler if DATABASE_DIRECT_URL leads past it. Raises PostgresError."""
    with direct_connection() as direct:
        found = database.facts(direct)
        if direct.alias == DIRECT and _is_free(direct, MIGRATION_LOCK):
            raise PostgresError(
                "DATABASE_DIRECT_URL names another database than DATABASE_URL: name the same one, without the pooler."
            )
        database_check.create_vector(direct, found)
        with database_check.privileges_explained(found):
            call_command("migrate", database=direct.alias, verbosity=0, interactive=False)


def _is_free(direct: BaseDatabaseWrapper, key: int) -> bool:
    """Whether the lock is free in the database of this connection."""
    with direct.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [key])
        return bool(cursor.fetchone() == (True,))


def _check_language() -> None:
    """Check RESERVOIR_LANGUAGE; only the database knows its languages. Raises ImproperlyConfigured."""
    with connection.cursor() as cursor:
        try:
            cursor.execute("SELECT %s::regconfig", [settings.RESERVOIR_LANGUAGE])
        except DatabaseError:
            cursor.execute("SELECT string_agg(cfgname, ', ' ORDER BY cfgname) FROM pg_ts_config")
            (languages,) = cursor.fetchone() or ("",)
            raise ImproperlyConfigured(
                f"RESERVOIR_LANGUAGE is {settings.RESERVOIR_LANGUAGE!r}: write one of {languages}."
            ) from None


def announce(say: Callable[[str], object]) -> None:
    """Print the base URL for apps, and the admin's address."""
    host = settings.RESERVOIR_BIND if settings.RESERVOIR_BIND not in EVERYWHERE else "localhost"
    root = settings.RESERVOIR_PUBLIC_URL or f"http://{host}:{settings.RESERVOIR_PORT}"
    say(f"Reservoir  {root}/v1/partition/{{partition}}/instance/{{instance}}")
    say(f"Admin      {root}/admin/   ({hosts.login_hint()})")
    connection.close()
    if keys_existed():
        say("Access     by key: see `manage.py key list`")
    elif not env.is_loopback(settings.RESERVOIR_BIND):
        say(f"Listening on {settings.RESERVOIR_BIND}: every client that reaches this port can read every partition.")


def run() -> None:
    """Serve until SIGTERM or SIGINT; running answers then have RESERVOIR_SHUTDOWN_SECONDS to finish."""
    _allow_connections()
    if settings.RESERVOIR_WORKERS > 1:
        _share_metrics()
    uvicorn.run(
        "reservoir_site.asgi:application",
        host=settings.RESERVOIR_BIND,
        port=settings.RESERVOIR_PORT,
        workers=settings.RESERVOIR_WORKERS if settings.RESERVOIR_WORKERS > 1 else None,
        loop="auto",
        http=DeadlineProtocol,
        timeout_keep_alive=IDLE_SECONDS,
        lifespan="on",
        ws="none",
        access_log=False,  # the guard writes one without query strings
        log_config=None,
        server_header=False,
        date_header=False,  # relayed from the provider
        proxy_headers=False,
        timeout_graceful_shutdown=settings.RESERVOIR_SHUTDOWN_SECONDS,
        backlog=2048,
    )


def _share_metrics() -> None:
    """Name the folder in which the workers, which inherit this environment, keep their figures together."""
    folder = tempfile.mkdtemp(prefix="reservoir-metrics-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ[metrics.FOLDER] = folder


def _allow_connections() -> None:
    """Raise the limit of file descriptors: each request needs two, and the usual limit is 1,024."""
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
    login = settings.RESERVOIR_HOME / hosts.LOGIN
    login.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    login.unlink(missing_ok=True)
    login.touch(mode=0o600)
    login.write_text(f"user admin\npassword {password}\n")
    # A log keeps what it is told, and is read by others.
    shown = f"password {password}" if sys.stdout.isatty() else f"password in {login}"
    say(f"First start: admin login  user admin  {shown}")
