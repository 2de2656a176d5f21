"""Servers behind PgBouncer in transaction mode, with fewer connections to PostgreSQL than they have threads."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from reservoir_site.postgres_folder import Location, embedded_location
from tests.end_to_end.conftest import StartServer
from tests.fake_provider.provider import FakeProvider
from tests.pgbouncer import PROGRAM, PgBouncer
from tests.server import ROOT, Server, ServerDied, clean_environment

pytestmark = pytest.mark.skipif(not PROGRAM, reason="needs PgBouncer: apt-get install pgbouncer")

Scope = tuple[str, str]
POOL = 3
FACT = "My grandmother's recipe for plum cake needs exactly seven plums."
QUESTION = "How many plums does my grandmother's plum cake need?"


@pytest.fixture
def where(server: Server) -> Iterator[Location]:
    """An empty database on the shared server's PostgreSQL."""
    shared = embedded_location(server.home)
    dbname = f"pooled_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(
        host=shared.host, port=shared.port, user=shared.user, dbname=shared.dbname, autocommit=True
    ) as admin:
        admin.execute(f'CREATE DATABASE "{dbname}"'.encode())
        yield Location(shared.host, shared.port, shared.user, dbname)
        admin.execute(f'DROP DATABASE "{dbname}" WITH (FORCE)'.encode())


@pytest.fixture
def pooler(server: Server, tmp_path: Path) -> Iterator[PgBouncer]:
    with PgBouncer(tmp_path, server.home, pool=POOL) as running:
        yield running


def direct_url(where: Location) -> str:
    return f"host={where.host} port={where.port} user={where.user} dbname={where.dbname}"


def ask(server: Server, scope: Scope, text: str) -> httpx.Response:
    url = f"{server.base_url(*scope)}/chat/completions"
    body = {"model": "gpt-4", "messages": [{"role": "user", "content": text}]}
    return httpx.post(url, json=body, timeout=300, trust_env=False).raise_for_status()


def manage(server: Server, *arguments: str) -> str:
    ended = subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env=clean_environment() | server.settings,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def remembers(server: Server, scope: Scope) -> bool:
    answer = httpx.get(f"{server.base_url(*scope)}/recall", params={"query": QUESTION}, timeout=300, trust_env=False)
    return FACT in answer.text


@pytest.mark.parametrize("direct", [False, True])
def test_two_servers_share_memory_through_a_pooler(
    direct: bool,
    pooler: PgBouncer,
    where: Location,
    start_server: StartServer,
    tmp_path: Path,
    scope: Scope,
    provider: FakeProvider,
) -> None:
    settings = {"RESERVOIR_SECRET_KEY": "the same on both hosts"}
    if direct:
        settings["DATABASE_DIRECT_URL"] = direct_url(where)
    url = pooler.url(where.dbname)
    first = start_server(settings, home=tmp_path / "first", database_url=url)
    second = start_server(settings, home=tmp_path / "second", database_url=url)
    assert ask(first, scope, FACT).headers["X-Reservoir-Memory"] == "on"
    assert remembers(second, scope)
    for number in range(3 * POOL):  # every pooled connection has its turn
        answer = ask((first, second)[number % 2], scope, f"{QUESTION} ({number})")
        assert answer.headers["X-Reservoir-Memory"] == "on"
    assert manage(first, "index", "create", "--all-earned") == "0 indexes created.\n"
    with psycopg.connect(direct_url(where)) as connection:
        left = connection.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone()
    assert left == (0,), "no lock stays with a pooled connection"
    for server in (first, second):
        assert "Traceback" not in server.log and "skipped" not in server.log, server.log


def test_a_direct_url_to_another_database_is_refused(
    pooler: PgBouncer, where: Location, start_server: StartServer, server: Server, tmp_path: Path
) -> None:
    settings = {"DATABASE_DIRECT_URL": direct_url(embedded_location(server.home))}
    with pytest.raises(ServerDied, match="DATABASE_DIRECT_URL names another database than DATABASE_URL"):
        start_server(settings, home=tmp_path / "home", database_url=pooler.url(where.dbname))
