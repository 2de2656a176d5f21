"""/ready fails while storing fails, while recall cannot run, and while the server stands still."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import psycopg
import pytest

from reservoir_site.postgres_folder import embedded_location
from tests.faults.app import App
from tests.faults.watching import eventually
from tests.server import Server

SETTINGS = {"RESERVOIR_RECALL_DEADLINE_MS": "500"}


def ready(server: Server) -> tuple[int, dict[str, Any]]:
    answer = httpx.get(f"{server.url}/ready", trust_env=False, timeout=300)
    return answer.status_code, answer.json()


@contextmanager
def connected(server: Server) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    where = embedded_location(server.home)
    with psycopg.connect(host=where.host, port=where.port, user=where.user, dbname=where.dbname) as connection:
        yield connection


@pytest.mark.parametrize(
    ("breaking", "mending", "part"),
    [
        (
            "REVOKE INSERT ON conversations_exchange FROM reservoir",
            "GRANT INSERT ON conversations_exchange TO reservoir",
            "storing",
        ),
        (
            "ALTER TABLE conversations_embedding RENAME COLUMN vector TO elsewhere",
            "ALTER TABLE conversations_embedding RENAME COLUMN elsewhere TO vector",
            "recall",
        ),
    ],
)
def test_ready_names_the_part_that_does_not_work(server: Server, breaking: str, mending: str, part: str) -> None:
    assert ready(server)[0] == 200
    with connected(server) as connection:
        connection.execute(breaking.encode())
    try:
        status, parts = ready(server)
        assert status == 503 and parts[part] != "ready", parts
        assert httpx.get(f"{server.url}/live", trust_env=False).status_code == 200, "a restart would not help"
    finally:
        with connected(server) as connection:
            connection.execute(mending.encode())
    eventually(lambda: ready(server)[0] == 200)


def test_ready_fails_while_all_threads_stand_still(server: Server) -> None:
    apps = [App(server) for _ in range(8)]
    with connected(server) as connection, ThreadPoolExecutor(len(apps)) as clients:
        connection.execute("LOCK TABLE conversations_instance")
        for asked in [clients.submit(app.ask, "hello") for app in apps]:
            assert asked.result().headers["x-reservoir-memory"] == "degraded"
        assert ready(server)[0] == 503
    eventually(lambda: ready(server)[0] == 200)
