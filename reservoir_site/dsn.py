"""Pure: reads the URL of a PostgreSQL server. What it says about an invalid one never quotes a part of the password."""

from __future__ import annotations

import re

import psycopg
from psycopg.conninfo import conninfo_to_dict

EXAMPLE = "postgresql://user:password@host:5432/database"

_URL = re.compile(r"(?P<scheme>[a-z0-9+._-]+)://(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_UNKNOWN = re.compile(r"invalid (?:URI query parameter|connection option) ?:? ?\"([A-Za-z_][A-Za-z0-9_]*)\"")


def parse(url: str, setting: str) -> dict[str, str]:
    """libpq's parameters in the URL, or in a string such as "host=... dbname=...", by name.

    Raises ValueError, one sentence that names the setting and says what to write instead.
    """
    if whole := _URL.fullmatch(url):
        _check_scheme(whole["scheme"].lower(), setting)
        _check_escapes(whole["rest"], setting)
    try:
        given = conninfo_to_dict(url)
    except psycopg.ProgrammingError as error:
        # libpq's message may quote the password: only the name of a parameter is taken from it.
        if unknown := _UNKNOWN.search(str(error)):
            raise ValueError(
                f"{setting} has the parameter {unknown[1]!r}, which PostgreSQL's clients do not know: remove it."
            ) from None
        if "percent-encoded" in str(error):
            raise ValueError(f"{setting} has a % that begins no escape: write %25 for a % in the password.") from None
        given = {}
    if not given.get("dbname"):
        raise ValueError(f"{setting} is invalid: write {EXAMPLE}.")
    return {name: str(value) for name, value in given.items() if value is not None}


def _check_scheme(scheme: str, setting: str) -> None:
    if scheme.startswith(("postgresql+", "postgres+")):
        raise ValueError(f"{setting} begins with {scheme}://, which names a driver: begin it with postgresql://.")
    if scheme not in ("postgresql", "postgres"):
        raise ValueError(f"{setting} begins with {scheme}://: only PostgreSQL is supported, write {EXAMPLE}.")


def _check_escapes(rest: str, setting: str) -> None:
    """Check that one @ at most comes before the database's name, and none in it: more belong to the password."""
    server, _, path = rest.partition("/")
    if server.count("@") > 1 or "@" in path.partition("?")[0]:
        raise ValueError(
            f"{setting} has an @ or a / in its user or password that is not escaped: "
            "write %40 for @ and %2F for / there."
        )
