"""The URL of a database: what is read from it, and what an invalid one is told without quoting a password."""

from __future__ import annotations

from pathlib import Path

import pytest

from reservoir_site.database import databases
from reservoir_site.dsn import parse


def test_a_url_is_read_as_libpq_reads_it() -> None:
    url = "postgresql://me:p%40ss%2F%25@a:5432,b:5433/memory?target_session_attrs=read-write&sslmode=require"
    assert parse(url, "DATABASE_URL") == {
        "user": "me",
        "password": "p@ss/%",
        "host": "a,b",
        "port": "5432,5433",
        "dbname": "memory",
        "target_session_attrs": "read-write",
        "sslmode": "require",
    }
    assert parse("host=/run/pg dbname=memory", "DATABASE_URL") == {"host": "/run/pg", "dbname": "memory"}


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("postgresql+psycopg://me:secret@h/d", "begins with postgresql+psycopg://, which names a driver"),
        ("mysql://me:secret@h/d", "only PostgreSQL is supported"),
        ("postgresql://me:secret@h/d?pool_size=5", "the parameter 'pool_size'"),
        ("postgresql://me:secret@h/d?pgbouncer=true&sslmode=require", "the parameter 'pgbouncer'"),
        ("host=h dbname=d password=secret colour=red", "the parameter 'colour'"),
        ("postgresql://me:sec@ret@h/d", "write %40 for @"),
        ("postgresql://me:sec/ret@h/d", "write %40 for @ and %2F for /"),
        ("postgresql://me:sec@ret?x@h/d", "write %40 for @"),
        ("postgresql://me:sec@ret/x@h/d", "write %40 for @"),
        ("postgresql://me:sec%ret@h/d", "write %25 for a %"),
        ("postgresql://me:secret@h", "DATABASE_URL is invalid: write postgresql://user:password@host:5432/database."),
        ("secret", "DATABASE_URL is invalid"),
        ("host=h dbname=d password='secret", "DATABASE_URL is invalid"),
    ],
)
def test_an_invalid_url_is_one_sentence_without_the_password(url: str, sentence: str) -> None:
    with pytest.raises(ValueError) as refused:
        parse(url, "DATABASE_URL")
    said = str(refused.value)
    assert sentence in said and said.startswith("DATABASE_URL") and "\n" not in said
    assert "sec" not in said and "ret" not in said.replace("write", "")


def test_nothing_is_set_for_the_session(tmp_path: Path) -> None:
    options = databases("postgresql://me@h/d", "", tmp_path)["default"]["OPTIONS"]
    assert "options" not in options and options["prepare_threshold"] is None
    given = databases("postgresql://me@h/d?options=-csearch_path%3Dmine", "", tmp_path)["default"]["OPTIONS"]
    assert given["options"] == "-csearch_path=mine"


def test_a_direct_url_needs_a_url_beside_it(tmp_path: Path) -> None:
    both = databases("postgresql://me@pooler/d", "postgresql://me@h/d", tmp_path)
    assert (both["default"]["HOST"], both["direct"]["HOST"]) == ("pooler", "h")
    with pytest.raises(ValueError, match="DATABASE_DIRECT_URL is set without DATABASE_URL"):
        databases("", "postgresql://me@h/d", tmp_path)
    with pytest.raises(ValueError, match="DATABASE_DIRECT_URL begins with mysql://"):
        databases("postgresql://me@pooler/d", "mysql://h/d", tmp_path)
