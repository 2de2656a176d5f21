"""Chooses the database: the server that DATABASE_URL names, or the embedded one."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import psycopg
from django.conf import settings
from django.db import OperationalError, connection
from psycopg.conninfo import conninfo_to_dict

from reservoir_site.postgres import EmbeddedPostgres
from reservoir_site.postgres_folder import PostgresError, embedded_location

# Recall filters vectors by scope: with a generic plan or a non-iterative index scan it would silently find nothing.
SESSION_OPTIONS = "-c plan_cache_mode=force_custom_plan -c hnsw.iterative_scan=relaxed_order -c jit=off"


def database_settings(url: str, home: Path) -> dict[str, Any]:
    """Django's settings for the database, without starting or contacting it; an empty URL means the embedded one.

    Raises ValueError, saying what to write instead, if the URL is not PostgreSQL's.
    """
    common: dict[str, Any] = {
        "ENGINE": "django.db.backends.postgresql",
        "CONN_MAX_AGE": None,  # a fixed number of threads keep their connections
        "CONN_HEALTH_CHECKS": False,
        "OPTIONS": {
            "options": SESSION_OPTIONS,
            "connect_timeout": 5,
            # Notices a vanished server within seconds, not after the system's 15 minutes.
            "tcp_user_timeout": 10_000,
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
        },
    }
    if not url:
        where = embedded_location(home)
        return common | {
            "NAME": where.dbname,
            "USER": where.user,
            "PASSWORD": where.password,
            "HOST": where.host,
            "PORT": str(where.port),
        }
    try:
        given = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        given = {}
    if not given.get("dbname"):
        raise ValueError("DATABASE_URL is invalid: write postgresql://user:password@host:5432/database.")
    names = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}
    options = {key: value for key, value in given.items() if key not in names.values()}
    options["options"] = f"{SESSION_OPTIONS} {given.get('options', '')}".strip()
    return (
        common
        | {ours: str(given.get(theirs) or "") for ours, theirs in names.items()}
        | {"OPTIONS": common["OPTIONS"] | options}
    )


@cache
def embedded() -> EmbeddedPostgres | None:
    """The embedded server; None if DATABASE_URL names another."""
    where = embedded_location(settings.RESERVOIR_HOME)
    if settings.DATABASES["default"]["HOST"] != where.host:
        return None
    return EmbeddedPostgres(settings.RESERVOIR_HOME)


def reach() -> None:
    """Return once the database answers; starts the embedded one if needed.

    Raises PostgresError, with the remedy, if the database cannot be reached or lacks pgvector.
    """
    if server := embedded():
        server.hold()
        return
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'")
            (available,) = cursor.fetchone() or (0,)
    except OperationalError as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no answer"
        raise PostgresError(
            f"The database of DATABASE_URL cannot be reached ({reason}): check that it runs and that the URL is right."
        ) from error
    if not available:
        raise PostgresError(
            "The server of DATABASE_URL lacks the vector extension: install pgvector there (0.8 or newer), "
            "for example with the image pgvector/pgvector:pg18."
        )
