"""PostgreSQL killed, frozen, full and locked under a running server: clients hardly notice, and nothing is lost."""

from __future__ import annotations

import fcntl
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest

from reservoir_site.postgres import embedded_location
from tests.fake_provider import Answer, FakeProvider, Gate, Request
from tests.faults.conftest import StartServer
from tests.faults.harness import command_line, eventually, frozen, kill, postmaster, report, rows, waiting, workers
from tests.server import ROOT, Server, clean_environment

KEY = "sk-never-to-be-written-down"


class App:
    """An app without history, in a scope of its own."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.scope = (f"partition-{uuid.uuid4().hex[:12]}", "app")
        self.ask("warm")

    def ask(self, text: str, *, stream: bool = False) -> httpx.Response:
        body = {"model": "some-model", "stream": stream, "messages": [{"role": "user", "content": text}]}
        url = f"{self.server.base_url(*self.scope)}/chat/completions"
        answer = httpx.post(url, json=body, headers={"Authorization": f"Bearer {KEY}"}, trust_env=False, timeout=30)
        assert answer.status_code == 200, answer.text
        assert "You" in answer.text
        return answer

    def memory(self, text: str) -> str:
        """What the answer to a question says of its memory."""
        state: str = self.ask(text).headers["x-reservoir-memory"]
        return state

    def timed(self, text: str, *, stream: bool = False) -> float:
        """How long an answer takes, in milliseconds."""
        begun = time.perf_counter()
        self.ask(text, stream=stream)
        return (time.perf_counter() - begun) * 1000

    def said(self) -> list[str]:
        """What was said here, in the order that it was stored."""
        found = rows(
            self.server.home,
            """SELECT m.content FROM conversations_message m JOIN conversations_instance i ON i.id = m.instance_id
               JOIN conversations_partition p ON p.id = i.partition_id
               WHERE p.name = %s AND i.name = %s AND m.role = 'user' ORDER BY m.id""",
            *self.scope,
        )
        return [content for (content,) in found]


def recovered(server: Server) -> None:
    """Wait until the database is asked again, and the spool is empty."""
    eventually(lambda: waiting(server.home) == 0)
    eventually(lambda: httpx.get(f"{server.url}/ready", trust_env=False, timeout=10).status_code == 200)


@contextmanager
def postgres_away(home: Path) -> Iterator[None]:
    """PostgreSQL is killed, and nobody can start it again before the end."""
    with (home / "postgres" / "lifecycle.lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert kill(postmaster(home) or 0)
        yield


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Every table is locked as a migration locks it."""
    where = embedded_location(home)
    with psycopg.connect(host=where.host, port=where.port, user=where.user, dbname=where.dbname) as connection:
        connection.execute("LOCK TABLE conversations_message, conversations_exchange, conversations_instance")
        yield


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, FakeProvider]]:
    with FakeProvider() as provider, Server(tmp_path_factory.mktemp("reservoir"), provider.base_url) as server:
        yield server, provider


@pytest.fixture
def app(shared: tuple[Server, FakeProvider]) -> Iterator[App]:
    """An app whose exchanges are remembered; whatever a test does, the next one finds that again."""
    server, _ = shared
    if not server.is_running:
        server.start()
    recovered(server)
    yield App(server)


@pytest.fixture
def provider(shared: tuple[Server, FakeProvider]) -> FakeProvider:
    """What the shared server asks."""
    shared[1].reset()
    return shared[1]


def test_clients_are_served_at_once_while_postgresql_is_away_and_nothing_is_lost(app: App) -> None:
    before = [app.timed(f"before {n}") for n in range(30)]
    with postgres_away(app.server.home):
        first = app.timed("away 0")
        away = [app.timed(f"away {n}", stream=n % 2 == 0) for n in range(1, 30)]
        assert app.memory("away 30") == "degraded"
        spooled = b"".join(path.read_bytes() for path in (app.server.home / "spool").iterdir())
        assert b"away 17" in spooled
        assert KEY.encode() not in spooled
    extra = statistics.median(away) - statistics.median(before)
    report(f"away: {extra:+.1f} ms median, {max(away):.0f} ms slowest, {first:.0f} ms the first")
    assert extra < 50 and first < statistics.median(before) + 250
    recovered(app.server)
    assert app.said() == ["warm", *(f"before {n}" for n in range(30)), *(f"away {n}" for n in range(31))]
    assert app.memory("after") == "on"


def test_what_waits_in_the_spool_is_stored_after_a_restart(app: App) -> None:
    with postgres_away(app.server.home):
        for n in range(5):
            app.ask(f"away {n}")
        app.server.kill()
    app.server.start()
    recovered(app.server)
    assert app.said() == ["warm", *(f"away {n}" for n in range(5))]


def test_what_waits_in_the_spool_is_stored_by_a_command(app: App) -> None:
    with postgres_away(app.server.home):
        app.ask("away")
        app.server.kill()

    def manage(*arguments: str) -> str:
        command = [sys.executable, "manage.py", *arguments]
        environment = clean_environment() | app.server.settings
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout

    assert "2 records are stored" in manage("spool", "replay")
    assert manage("spool", "status").startswith("0 records wait")
    app.server.start()
    assert app.said() == ["warm", "away"]


def test_a_database_that_stands_still_delays_some_requests_briefly_and_then_none(app: App) -> None:
    with frozen(postmaster(app.server.home) or 0):
        begun = len(app.server.log)
        first = app.timed("frozen 0")
        eventually(lambda: app.memory("frozen") == "degraded" and "does not answer" in app.server.log[begun:])
        later = [app.timed(f"frozen {n}") for n in range(1, 20)]
    report(f"frozen: {first:.0f} ms the first, {statistics.median(later):.1f} ms median later")
    assert first < 4000
    assert statistics.median(later) < 100
    recovered(app.server)
    assert [text for text in app.said() if text != "frozen"] == ["warm", *(f"frozen {n}" for n in range(20))]


def test_locked_tables_leave_recall_out_within_its_deadline_and_lose_nothing(app: App) -> None:
    with locked(app.server.home), ThreadPoolExecutor(16) as clients:
        first = app.timed("locked 0")
        took = list(clients.map(lambda n: app.timed(f"locked {n}"), range(1, 33)))
        # By now the storing threads hang, all of them; nobody waits for one.
        later = [app.timed("later") for _ in range(3)]
    report(f"locked: {first:.0f} ms the first, {max(took):.0f} at 16 clients, {max(later):.0f} later")
    assert first < 4000 and max(took) < 6000 and max(later) < 1500
    recovered(app.server)
    kept = sorted(text for text in app.said() if text.startswith("locked"))
    assert kept == sorted(f"locked {n}" for n in range(33))
    assert app.memory("after") == "on"


def test_a_database_without_a_free_connection_is_one_that_is_away(app: App) -> None:
    where = embedded_location(app.server.home)
    mine: list[psycopg.Connection[tuple[object, ...]]] = []

    def take_all() -> None:
        with pytest.raises(psycopg.OperationalError):
            while len(mine) < 200:
                mine.append(psycopg.connect(host=where.host, port=where.port, user=where.user, dbname=where.dbname))

    try:
        take_all()
        with psycopg.connect(host=where.host, port=where.port, user="postgres", dbname="postgres") as admin:
            # Those that the server holds would go on; cut off, it finds no others.
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s AND pid <> ALL(%s)",
                [where.user, [connection.info.backend_pid for connection in mine]],
            )
            take_all()
        took = [app.timed(f"full {n}") for n in range(5)]
        assert app.memory("full 5") == "degraded"
        assert max(took) < 1000
    finally:
        for connection in mine:
            connection.close()
    recovered(app.server)
    assert app.said() == ["warm", *(f"full {n}" for n in range(6))]


def test_a_full_spool_keeps_no_client_waiting_and_what_was_kept_stays(start_server: StartServer) -> None:
    app = App(start_server({"RESERVOIR_SPOOL_LIMIT": str(2**20)}))
    with postgres_away(app.server.home):
        for n in range(5):
            app.ask(f"{n} " + "x" * 300_000)
        assert app.memory("small") == "degraded"
        assert sum(path.stat().st_size for path in (app.server.home / "spool").glob("*.spool")) <= 2**20
    assert "is not kept: the spool is full" in app.server.log
    recovered(app.server)
    kept = [text.split()[0] for text in app.said()]
    assert kept[:2] == ["warm", "0"] and "4" not in kept


def test_an_embedder_that_hangs_or_throws_costs_no_more_than_the_deadline(
    start_server: StartServer, provider: FakeProvider
) -> None:
    gate, broken = Gate(), False

    def embeddings(request: Request) -> Answer | None:
        if not request.path.endswith("/embeddings"):
            return None
        return Answer(500, body=b"broken") if broken else Answer(body=[], before=[gate])

    settings = {"RESERVOIR_EMBEDDER": f"{provider.base_url}#small", "RESERVOIR_EMBEDDER_DIMENSIONS": "1536"}
    app = App(start_server(settings))
    provider.answer_always(embeddings)
    with ThreadPoolExecutor(8) as clients:
        took = list(clients.map(lambda n: app.timed(f"hung {n}"), range(16)))
    later = app.timed("hung 16")
    report(f"embedder hung: {max(took):.0f} ms slowest, {later:.0f} ms once all threads hang")
    assert max(took) < 2000 and later < 250
    broken = True
    gate.open()
    eventually(lambda: app.timed("broken") < 250)
    assert set(app.said()) >= {f"hung {n}" for n in range(17)}


def test_vectors_of_a_wrong_length_and_corrupted_rows_are_left_out_of_a_request_that_goes_on(app: App) -> None:
    mine = """WHERE instance_id = (SELECT i.id FROM conversations_instance i JOIN conversations_partition p
                                   ON p.id = i.partition_id WHERE p.name = %s AND i.name = %s)"""
    count = f"SELECT count(*) FROM conversations_embedding {mine}"
    eventually(lambda: rows(app.server.home, count, *app.scope)[0][0] > 0)
    where = embedded_location(app.server.home)
    with psycopg.connect(host=where.host, port=where.port, user=where.user, dbname=where.dbname) as connection:
        for change in ("embedding SET vector = '[1,2,3]'::halfvec", "message SET payload = '{broken', digest = ''"):
            changed = connection.execute(f"UPDATE conversations_{change} {mine}", app.scope)
            assert changed.rowcount
    assert app.memory("warm?") in ("on", "degraded")
    assert app.said() == ["warm", "warm?"]


def test_two_servers_that_start_at_once_on_one_folder_share_its_postgresql(
    provider: FakeProvider, tmp_path: Path
) -> None:
    servers = [Server(tmp_path / "reservoir", provider.base_url) for _ in range(2)]
    try:
        for server in servers:
            server.start(ready=False)
        for server in servers:
            server.wait_until_ready()
        apps = [App(server) for server in servers]
        for app in apps:
            app.ask("hello")
        kill(postmaster(servers[0].home) or 0)
        for app in apps:
            app.ask("again")
        for app in apps:
            recovered(app.server)
            assert app.said() == ["warm", "hello", "again"]
    finally:
        for server in servers:
            server.__exit__()


def test_a_question_whose_server_died_is_kept_and_marked(app: App, provider: FakeProvider) -> None:
    gate = Gate()
    provider.answer(Answer(before=[gate]))
    with postgres_away(app.server.home), ThreadPoolExecutor(1) as client:
        asking = client.submit(app.ask, "nobody answered")
        assert gate.reached.wait(10)
        spool = app.server.home / "spool"
        eventually(lambda: any(b"nobody answered" in path.read_bytes() for path in spool.iterdir()))
        app.server.kill()
        with pytest.raises(httpx.TransportError):
            asking.result()
    gate.open()
    app.server.start()
    recovered(app.server)
    assert app.said() == ["warm", "nobody answered"]
    assert rows(app.server.home, "SELECT ended FROM conversations_exchange ORDER BY id")[-1] == ("interrupted",)


def test_workers_whose_server_was_killed_give_up_its_port(provider: FakeProvider, tmp_path: Path) -> None:
    settings = {"RESERVOIR_WORKERS": "2"}
    with Server(tmp_path / "reservoir", provider.base_url, settings=settings) as server:
        orphans = workers(server)
        assert len(orphans) == 2
        server.kill()
        eventually(lambda: not any(command_line(pid) for pid in orphans), 15)
        server.start()
        App(server).ask("again")
