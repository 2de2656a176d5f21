"""Several workers of one server, when their server or their database dies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from reservoir_site.postgres import EmbeddedPostgres
from tests.fake_provider.provider import FakeProvider
from tests.faults.app import App
from tests.faults.breaking import kill, postgres_down
from tests.faults.stored import recovered
from tests.faults.watching import command_line, eventually, workers
from tests.server import PATIENT, Server

WORKERS = PATIENT | {"RESERVOIR_WORKERS": "2"}


@pytest.fixture
def server(provider: FakeProvider, tmp_path: Path) -> Iterator[Server]:
    """A server of two workers, not started yet, for one test only."""
    server = Server(tmp_path / "reservoir", provider.base_url, settings=WORKERS)
    yield server
    server.__exit__()


def both(server: Server) -> list[int]:
    """Wait for both workers."""
    eventually(lambda: len(workers(server)) == 2)
    return workers(server)


@pytest.mark.parametrize("ready", [True, False], ids=["serve", "begin"])
def test_workers_of_a_killed_server_release_its_port(server: Server, ready: bool) -> None:
    server.start(ready=ready)
    orphans = both(server)
    server.kill()
    eventually(lambda: not any(command_line(pid) for pid in orphans))
    server.start()


def test_workers_that_start_without_the_embedded_database_serve(server: Server) -> None:
    app = App(server.start())
    before = both(server)
    with postgres_down(server.home):
        for pid in before:
            kill(pid)
        assert app.memory("away") == "degraded"
    recovered(server)
    assert app.said() == ["warm", "away"]
    assert app.memory("after") == "on"


def test_workers_that_start_without_an_external_database_serve(provider: FakeProvider, tmp_path: Path) -> None:
    company = EmbeddedPostgres(tmp_path / "company")
    company.hold()
    where = company.location
    url = make_conninfo(host=where.host, port=where.port, user=where.user, dbname=where.dbname)
    try:
        with Server(tmp_path / "reservoir", provider.base_url, database_url=url, settings=WORKERS) as server:
            app = App(server, database=tmp_path / "company")
            before = both(server)
            company.release()
            for pid in before:
                kill(pid)
            assert app.memory("away") == "degraded"
            company.hold()
            recovered(server)
            assert app.said() == ["warm", "away"]
            assert app.memory("after") == "on"
    finally:
        company.release()
