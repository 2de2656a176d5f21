"""Chooses the database: the server that DATABASE_URL names, or the embedded one."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import OperationalError, connection
from django.db.backends.base.base import BaseDatabaseWrapper

from conversations.direct import DIRECT
from reservoir_site import database_check, dsn
from reservoir_site.database_check import Facts
from reservoir_site.postgres import EmbeddedPostgres
from reservoir_site.postgres_folder import PostgresError, embedded_location


def database_settings(url: str, home: Path, setting: str = "DATABASE_URL") -> dict[str, Any]:
    """Django's settings for the database, without starting or contacting it; an empty URL means the embedded one.

    They set nothing for the session (`options`), which connection poolers refuse, and prepare no statements: then every
    query is planned for its values, without which recall would find nothing by index.
    Raises ValueError, saying what to write instead in `setting`, if the URL is not PostgreSQL's.
    """
    common: dict[str, Any] = {
        "ENGINE": "django.db.backends.postgresql",
        "CONN_MAX_AGE": None,  # a fixed number of threads keep their connections
        "CONN_HEALTH_CHECKS": False,
        "OPTIONS": {
            "prepare_threshold": None,
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
    given = dsn.parse(url, setting)
    names = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}
    options = {key: value for key, value in given.items() if key not in names.values()}
    return (
        common
        | {ours: given.get(theirs, "") for ours, theirs in names.items()}
        | {"OPTIONS": common["OPTIONS"] | options}
    )


def databases(url: str, direct_url: str, home: Path) -> dict[str, dict[str, Any]]:
    """Django's DATABASES: `default`, and `direct` if there is a direct URL. Raises ValueError."""
    if not direct_url:
        return {"default": database_settings(url, home)}
    if not url:
        raise ValueError("DATABASE_DIRECT_URL is set without DATABASE_URL: set DATABASE_URL to the pooler's address.")
    direct = database_settings(direct_url, home, "DATABASE_DIRECT_URL") | {"TEST": {"MIRROR": "default"}}
    return {"default": database_settings(url, home), DIRECT: direct}


@cache
def embedded() -> EmbeddedPostgres | None:
    """The embedded server; None if DATABASE_URL names another."""
    where = embedded_location(settings.RESERVOIR_HOME)
    if settings.DATABASES["default"]["HOST"] != where.host:
        return None
    return EmbeddedPostgres(settings.RESERVOIR_HOME)


def reach() -> None:
    """Return once the database answers; starts the embedded one if needed.

    Raises PostgresError, with the remedy, if the database cannot be reached or cannot hold the memory.
    """
    if server := embedded():
        server.hold()
        return
    if sentence := database_check.problem(facts(connection)):
        raise PostgresError(sentence)


def facts(reached: BaseDatabaseWrapper) -> Facts:
    """What the database reports about itself. Raises PostgresError, with the remedy, if it cannot be reached."""
    try:
        return database_check.facts(reached)
    except OperationalError as error:
        setting = "DATABASE_DIRECT_URL" if reached.alias == DIRECT else "DATABASE_URL"
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no answer"
        raise PostgresError(
            f"The database of {setting} cannot be reached ({reason}): check that it runs and that the URL is right."
        ) from error
