"""PostgreSQL is killed, frozen, full or locked under a running server: clients hardly notice, and nothing is lost."""

from __future__ import annotations

import fcntl
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import psycopg
import pytest

from conversations.embedding import NOTICED_WITHIN
from proxy.memory.service import CATCH_UP_SECONDS
from reservoir_site.postgres_folder import embedded_location
from tests.fake_provider.answers import Answer, Gate, Request
from tests.fake_provider.provider import FakeProvider
from tests.faults.app import KEY, App
from tests.faults.breaking import frozen, kill, locked, no_room, postgres_down, standing_still
from tests.faults.conftest import StartServer
from tests.faults.stored import recovered, rows, spooled, waiting
from tests.faults.watching import children, command_line, eventually, postmaster, report
from tests.server import ROOT, Server, clean_environment

pytestmark = pytest.mark.alone

SETTINGS = {"RESERVOIR_RECALL_DEADLINE_MS": "300"}  # the default; hangs must cost no more


@pytest.fixture
def app(server: Server) -> App:
    """An app with working memory, whatever the previous test did."""
    recovered(server)
    return App(server)


def test_clients_are_served_promptly_while_postgresql_is_down_and_nothing_is_lost(app: App) -> None:
    before = [app.timed(f"before {n}") for n in range(30)]
    with postgres_down(app.server.home):
        first = app.timed("away 0")
        away = [app.timed(f"away {n}", stream=n % 2 == 0) for n in range(1, 30)]
        assert app.memory("away 30") == "degraded"
        kept = spooled(app.server.home)
        assert b"away 17" in kept
        assert KEY.encode() not in kept
    extra = statistics.median(away) - statistics.median(before)
    report(f"away: {extra:+.1f} ms median, {max(away):.0f} ms slowest, {first:.0f} ms the first")
    # They are faster without recall; even the first one does not wait for a connection.
    assert statistics.median(away) < 3 * statistics.median(before)
    assert first < 20 * statistics.median(before)
    recovered(app.server)
    assert app.said() == ["warm", *(f"before {n}" for n in range(30)), *(f"away {n}" for n in range(31))]
    eventually(lambda: app.memory("after") == "on")


def test_the_spool_is_stored_after_a_restart(app: App) -> None:
    with postgres_down(app.server.home):
        for n in range(5):
            app.ask(f"away {n}")
        app.server.kill()
    app.server.start()
    recovered(app.server)
    assert app.said() == ["warm", *(f"away {n}" for n in range(5))]


def test_the_spool_is_stored_by_a_command(app: App) -> None:
    with postgres_down(app.server.home):
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


def test_clients_wait_briefly_for_a_replay_of_the_spool(app: App) -> None:
    """Otherwise clients that ask without a pause would fill the spool faster than it is replayed."""
    home = app.server.home
    with ExitStack() as replaying:
        with postgres_down(home):
            for n in range(5):
                app.ask(f"away {n}")
            lock = replaying.enter_context((home / "spool" / "replay.lock").open("a"))
            fcntl.flock(lock, fcntl.LOCK_EX)  # as a long replay by another process does
        eventually(lambda: httpx.get(f"{app.server.url}/ready", trust_env=False, timeout=300).status_code == 200)
        assert app.timed("back") >= CATCH_UP_SECONDS * 1000
        assert app.said() == ["warm"]
    recovered(app.server)
    assert app.said() == ["warm", *(f"away {n}" for n in range(5)), "back"]


def test_a_frozen_database_briefly_delays_one_request_only(app: App) -> None:
    calm = [app.timed(f"calm {n}") for n in range(10)]
    with frozen(postmaster(app.server.home) or 0):
        begun = len(app.server.log)
        first = app.timed("frozen 0")
        eventually(lambda: app.memory("frozen") == "degraded" and "does not answer" in app.server.log[begun:])
        noticed = len(app.server.log)
        later = [app.timed(f"frozen {n}") for n in range(1, 20)]
        assert "took too long" not in app.server.log[noticed:], "a request has waited for recall"
        assert "goes to the spool" not in app.server.log[noticed:], "a request has waited for storing"
    report(f"frozen: {first:.0f} ms the first, {statistics.median(later):.1f} ms median later")
    assert statistics.median(later) < 3 * statistics.median(calm)
    recovered(app.server)
    texts = [f"calm {n}" for n in range(10)] + [f"frozen {n}" for n in range(20)]
    assert [text for text in app.said() if text != "frozen"] == ["warm", *texts]


def test_a_server_stops_while_its_database_is_frozen(app: App) -> None:
    time.sleep(NOTICED_WITHIN)  # the next embedding asks the database first
    with frozen(postmaster(app.server.home) or 0):
        app.ask("frozen")
        begun = time.monotonic()
        app.server.stop()
        report(f"the server of a frozen PostgreSQL has ended after {time.monotonic() - begun:.1f} s")
        assert "not waiting any longer" in app.server.log
        assert postmaster(app.server.home), "it was to be left to itself"
    eventually(lambda: postmaster(app.server.home) is None)
    app.server.start()
    recovered(app.server)
    assert app.said() == ["warm", "frozen"]


def test_clients_are_served_during_a_long_recovery_of_postgresql(app: App) -> None:
    home = app.server.home

    def startup_process() -> list[int]:
        """Kill PostgreSQL, and catch the recovery process of the restarted one as soon as it exists."""
        kill(postmaster(home) or 0)
        for _ in range(20_000):
            found = [pid for pid in children(postmaster(home) or 0) if b"startup" in command_line(pid)]
            if found:
                return found
            time.sleep(0.0005)
        return []

    for _ in range(10):
        with standing_still(startup_process()) as still:
            if not still:
                continue  # the recovery ended before it could be stopped
            begun = len(app.server.log)
            assert [app.memory(f"recovering {n}") for n in range(20)][-1] == "degraded"
            assert httpx.get(f"{app.server.url}/ready", trust_env=False, timeout=300).status_code == 503
            assert "runs again" not in app.server.log[begun:]
            break
    else:
        pytest.fail("no recovery could be held")
    recovered(app.server)
    assert app.said() == ["warm", *(f"recovering {n}" for n in range(20))]
    eventually(lambda: app.memory("after") == "on")


def test_locked_tables_skip_recall_within_its_deadline_and_lose_nothing(app: App) -> None:
    with locked(app.server.home), ThreadPoolExecutor(16) as clients:
        first = app.timed("locked 0")
        took = list(clients.map(lambda n: app.timed(f"locked {n}"), range(1, 33)))
        # By now all storing threads hang; no request waits for one.
        later = [app.timed("later") for _ in range(3)]
    report(f"locked: {first:.0f} ms the first, {max(took):.0f} at 16 clients, {max(later):.0f} later")
    assert statistics.median(later) < first, "requests still wait for threads that hang"
    recovered(app.server)
    kept = sorted(text for text in app.said() if text.startswith("locked"))
    assert kept == sorted(f"locked {n}" for n in range(33))
    eventually(lambda: app.memory("after") == "on")


def test_a_database_without_a_free_connection_counts_as_unreachable(app: App) -> None:
    where = embedded_location(app.server.home)
    mine: list[psycopg.Connection[tuple[object, ...]]] = []

    def take_all() -> None:
        with pytest.raises(psycopg.OperationalError):
            while len(mine) < 200:
                mine.append(psycopg.connect(host=where.host, port=where.port, user=where.user, dbname=where.dbname))

    try:
        take_all()
        with psycopg.connect(host=where.host, port=where.port, user="postgres", dbname="postgres") as admin:
            # The server's open connections would still work; once they are cut, it gets no new ones.
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s AND pid <> ALL(%s)",
                [where.user, [connection.info.backend_pid for connection in mine]],
            )
            take_all()
        took = [app.timed(f"full {n}") for n in range(5)]
        assert app.memory("full 5") == "degraded"
        report(f"no free connection: {max(took):.0f} ms slowest")
    finally:
        for connection in mine:
            connection.close()
    recovered(app.server)
    assert app.said() == ["warm", *(f"full {n}" for n in range(6))]


def test_a_full_spool_delays_no_client_and_keeps_its_records(start_server: StartServer) -> None:
    app = App(start_server({"RESERVOIR_SPOOL_LIMIT": str(2**20)}))
    with postgres_down(app.server.home):
        for n in range(5):
            app.ask(f"{n} " + "x" * 300_000)
        assert app.memory("small") == "degraded"
        assert sum(path.stat().st_size for path in (app.server.home / "spool").glob("*.spool")) <= 2**20
    assert "is not stored: the spool is full" in app.server.log
    ready = httpx.get(f"{app.server.url}/ready", trust_env=False, timeout=300)
    assert (ready.status_code, ready.json()["storing"] != "ready") == (503, True), ready.text  # for a minute
    eventually(lambda: waiting(app.server.home) == 0)
    kept = [text.split()[0] for text in app.said()]
    assert kept[:2] == ["warm", "0"] and "4" not in kept


def test_a_full_disk_costs_memory_but_loses_no_message(
    start_server: StartServer,
) -> None:
    app = App(start_server())  # its write-ahead log holds only the first migrations
    server = app.server
    with no_room(server):
        app.ask("full 0")
        eventually(lambda: app.memory("full") == "degraded")
        for n in range(1, 20):
            app.ask(f"full {n}")
        eventually(lambda: "does not start" in server.log)  # and keeps retrying
        assert app.memory("full 20") == "degraded"
        assert waiting(server.home)
    recovered(server)
    assert [text for text in app.said() if text != "full"] == ["warm", *(f"full {n}" for n in range(21))]
    eventually(lambda: app.memory("after") == "on")


def test_an_embedder_that_hangs_or_fails_costs_at_most_the_deadline(
    start_server: StartServer, provider: FakeProvider
) -> None:
    gate, broken = Gate(), False

    def embeddings(request: Request) -> Answer | None:
        if not request.path.endswith("/embeddings"):
            return None
        return Answer(500, body=b"broken") if broken else Answer(body=[], before=[gate])

    embedder = {"RESERVOIR_EMBEDDER": f"{provider.base_url}#small", "RESERVOIR_EMBEDDER_DIMENSIONS": "1536"}
    settings = SETTINGS | embedder
    app = App(start_server(settings))
    provider.answer_always(embeddings)
    with ThreadPoolExecutor(8) as clients:
        took = list(clients.map(lambda n: app.timed(f"hung {n}"), range(16)))
    later = app.timed("hung 16")
    report(f"embedder hung: {max(took):.0f} ms slowest, {later:.0f} ms once all threads hang")
    assert later < max(took), "requests still wait for threads that hang"
    broken, begun = True, len(app.server.log)
    gate.open()
    # Recall is skipped while its threads hang; then it uses words only.
    eventually(lambda: app.memory("broken") == "degraded" and "words alone" in app.server.log[begun:])
    eventually(lambda: waiting(app.server.home) == 0)
    assert set(app.said()) >= {f"hung {n}" for n in range(17)}


def test_vectors_of_wrong_length_and_corrupted_rows_do_not_stop_a_request(app: App) -> None:
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
    eventually(lambda: app.said() == ["warm", "warm?"])


def test_servers_that_start_together_on_one_folder_share_its_postgresql(provider: FakeProvider, tmp_path: Path) -> None:
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


def test_a_question_whose_server_died_is_stored_and_marked(app: App, provider: FakeProvider) -> None:
    gate = Gate()
    provider.answer(Answer(before=[gate]))
    with postgres_down(app.server.home), ThreadPoolExecutor(1) as client:
        asking = client.submit(app.ask, "unanswered")
        assert gate.reached.wait(300)
        eventually(lambda: b"unanswered" in spooled(app.server.home))
        app.server.kill()
        with pytest.raises(httpx.TransportError):
            asking.result()
    gate.open()
    app.server.start()
    recovered(app.server)
    assert app.said() == ["warm", "unanswered"]
    assert rows(app.server.home, "SELECT ended FROM conversations_exchange ORDER BY id")[-1] == ("interrupted",)
