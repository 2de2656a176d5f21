"""PostgreSQL killed, frozen, full and locked under a running server: clients hardly notice, and nothing is lost."""

from __future__ import annotations

import fcntl
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest

from reservoir_site.postgres import embedded_location
from tests.fake_provider import FakeProvider
from tests.faults.conftest import StartServer
from tests.faults.harness import frozen, kill, postmaster, rows, waiting
from tests.server import ROOT, Server, clean_environment

SCOPE = ("home", "alice")
KEY = "sk-never-to-be-written-down"


def ask(server: Server, text: str, *, scope: tuple[str, str] = SCOPE, stream: bool = False) -> httpx.Response:
    """One exchange, as an app without history."""
    body = {"model": "gpt-4", "stream": stream, "messages": [{"role": "user", "content": text}]}
    url = f"{server.base_url(*scope)}/chat/completions"
    answer = httpx.post(url, json=body, headers={"Authorization": f"Bearer {KEY}"}, trust_env=False, timeout=30)
    assert answer.status_code == 200, answer.text
    assert "You" in answer.text
    return answer


def memory(answer: httpx.Response) -> str:
    state: str = answer.headers["x-reservoir-memory"]
    return state


def said(server: Server, scope: tuple[str, str] = SCOPE) -> list[str]:
    """What the users of a scope said, in the order that it was stored."""
    found = rows(
        server.home,
        """SELECT m.content FROM conversations_message m JOIN conversations_instance i ON i.id = m.instance_id
           JOIN conversations_partition p ON p.id = i.partition_id
           WHERE p.name = %s AND i.name = %s AND m.role = 'user' ORDER BY m.id""",
        *scope,
    )
    return [content for (content,) in found]


def eventually(holds: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.02)


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


@pytest.fixture
def server(start_server: StartServer) -> Server:
    server = start_server()
    ask(server, "warm")
    return server


def milliseconds(asking: Callable[[], object]) -> float:
    begun = time.perf_counter()
    asking()
    return (time.perf_counter() - begun) * 1000


def test_clients_are_served_at_once_while_postgresql_is_away_and_nothing_is_lost(server: Server) -> None:
    before = [milliseconds(lambda n=n: ask(server, f"before {n}")) for n in range(30)]  # type: ignore[misc]
    with postgres_away(server.home):
        first = milliseconds(lambda: ask(server, "away 0"))
        away = [milliseconds(lambda n=n: ask(server, f"away {n}", stream=n % 2 == 0)) for n in range(1, 30)]  # type: ignore[misc]
        assert memory(ask(server, "away 30")) == "degraded"
        spooled = b"".join(path.read_bytes() for path in (server.home / "spool").iterdir())
        assert b"away 17" in spooled
        assert KEY.encode() not in spooled
    extra = statistics.median(away) - statistics.median(before)
    print(f"away: {extra:+.1f} ms median, {max(away):.0f} ms slowest, {first:.0f} ms the first", file=sys.stderr)
    assert extra < 50 and first < statistics.median(before) + 250
    recovered(server)
    assert said(server) == ["warm", *(f"before {n}" for n in range(30)), *(f"away {n}" for n in range(31))]
    assert memory(ask(server, "after")) == "on"


def test_what_waits_in_the_spool_is_stored_after_a_restart(server: Server) -> None:
    with postgres_away(server.home):
        for n in range(5):
            ask(server, f"away {n}")
        server.kill()
    server.start()
    recovered(server)
    assert said(server) == ["warm", *(f"away {n}" for n in range(5))]


def test_what_waits_in_the_spool_is_stored_by_a_command(server: Server) -> None:
    with postgres_away(server.home):
        ask(server, "away")
        server.kill()

    def manage(*arguments: str) -> str:
        command = [sys.executable, "manage.py", *arguments]
        environment = clean_environment() | server.settings
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout

    assert manage("spool", "status").startswith("2 records wait")
    assert "2 records are stored" in manage("spool", "replay")
    assert manage("spool", "status").startswith("0 records wait")
    server.start()
    assert said(server) == ["warm", "away"]


def test_a_database_that_stands_still_delays_some_requests_briefly_and_then_none(server: Server) -> None:
    pid = postmaster(server.home)
    assert pid
    with frozen(pid):
        first = milliseconds(lambda: ask(server, "frozen 0"))
        eventually(lambda: memory(ask(server, "frozen")) == "degraded" and "does not answer" in server.log)
        later = [milliseconds(lambda n=n: ask(server, f"frozen {n}")) for n in range(1, 20)]  # type: ignore[misc]
    print(f"frozen: {first:.0f} ms the first, {statistics.median(later):.1f} ms later", file=sys.stderr)
    assert first < 4000
    assert statistics.median(later) < 100
    recovered(server)
    kept = said(server)
    assert [text for text in kept if text != "frozen"] == ["warm", *(f"frozen {n}" for n in range(20))]


def test_locked_tables_leave_recall_out_within_its_deadline_and_lose_nothing(server: Server) -> None:
    with locked(server.home), ThreadPoolExecutor(16) as clients:
        first = milliseconds(lambda: ask(server, "locked 0"))
        took = list(clients.map(lambda n: milliseconds(lambda: ask(server, f"locked {n}")), range(1, 33)))
        # By now the storing threads hang, all of them; nobody waits for one.
        later = [milliseconds(lambda: ask(server, "later")) for _ in range(3)]
    print(
        f"locked: {first:.0f} ms the first, {max(took):.0f} ms under load, {max(later):.0f} ms later", file=sys.stderr
    )
    assert first < 4000 and max(took) < 6000 and max(later) < 1500
    recovered(server)
    assert sorted(text for text in said(server) if text.startswith("locked")) == sorted(
        f"locked {n}" for n in range(33)
    )
    assert memory(ask(server, "after")) == "on"


def test_a_database_without_a_free_connection_is_one_that_is_away(server: Server) -> None:
    where = embedded_location(server.home)
    with ExitStack() as taken:
        with pytest.raises(psycopg.OperationalError):
            for _ in range(120):
                connect = psycopg.connect(host=where.host, port=where.port, user=where.user, dbname=where.dbname)
                taken.enter_context(connect)
        # Those that the server holds go on; cut off, it finds no other.
        with psycopg.connect(host=where.host, port=where.port, user="postgres", dbname="postgres") as admin:
            mine = [connection.info.backend_pid for connection in taken_connections(taken)]
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s AND pid <> ALL(%s)",
                [where.user, mine],
            )
            with pytest.raises(psycopg.OperationalError):
                for _ in range(20):
                    taken.enter_context(
                        psycopg.connect(host=where.host, port=where.port, user=where.user, dbname=where.dbname)
                    )
        took = [milliseconds(lambda n=n: ask(server, f"full {n}")) for n in range(5)]  # type: ignore[misc]
        assert memory(ask(server, "full 5")) == "degraded"
        assert max(took) < 1000
    recovered(server)
    assert said(server) == ["warm", *(f"full {n}" for n in range(6))]


def taken_connections(stack: ExitStack) -> list[psycopg.Connection[tuple[object, ...]]]:
    return [callback.__self__ for _, callback in stack._exit_callbacks]  # type: ignore[attr-defined]


def test_a_full_spool_keeps_no_client_waiting_and_what_was_kept_stays(start_server: StartServer) -> None:
    server = start_server({"RESERVOIR_SPOOL_LIMIT": str(2**20)})
    ask(server, "warm")
    with postgres_away(server.home):
        for n in range(5):
            ask(server, f"{n} " + "x" * 300_000)
        assert memory(ask(server, "small")) == "degraded"
        assert (sum(p.stat().st_size for p in (server.home / "spool").glob("*.spool"))) <= 2**20
    assert "is not kept: the spool is full" in server.log
    recovered(server)
    kept = [text.split()[0] for text in said(server)]
    assert kept[:2] == ["warm", "0"] and "4" not in kept


def test_an_embedder_that_hangs_or_throws_costs_no_more_than_the_deadline(
    start_server: StartServer, provider: FakeProvider
) -> None:
    from tests.fake_provider import Answer, Gate, Request

    gate, broken = Gate(), False

    def embeddings(request: Request) -> Answer | None:
        if not request.path.endswith("/embeddings"):
            return None
        if broken:
            return Answer(500, body=b"broken")
        return Answer(body=[], before=[gate])

    server = start_server({"RESERVOIR_EMBEDDER": f"{provider.base_url}#small", "RESERVOIR_EMBEDDER_DIMENSIONS": "8"})
    ask(server, "warm")
    provider.answer_always(embeddings)
    with ThreadPoolExecutor(8) as clients:
        took = list(clients.map(lambda n: milliseconds(lambda: ask(server, f"hung {n}")), range(16)))
    later = milliseconds(lambda: ask(server, "hung 16"))
    print(f"embedder hung: {max(took):.0f} ms slowest, {later:.0f} ms once all threads hang", file=sys.stderr)
    assert max(took) < 2000 and later < 250
    gate.open()
    broken = True
    eventually(lambda: milliseconds(lambda: ask(server, "broken")) < 250)
    assert set(said(server)) >= {f"hung {n}" for n in range(17)}


def test_vectors_of_a_wrong_length_and_corrupted_rows_are_left_out_of_a_request_that_goes_on(server: Server) -> None:
    eventually(lambda: rows(server.home, "SELECT count(*) FROM conversations_embedding")[0][0] > 0)
    where = embedded_location(server.home)
    with psycopg.connect(host=where.host, port=where.port, user=where.user, dbname=where.dbname) as connection:
        connection.execute("UPDATE conversations_embedding SET vector = '[1,2,3]'::halfvec")
        connection.execute("UPDATE conversations_message SET payload = '{broken', digest = ''")
    answer = ask(server, "warm?")
    assert memory(answer) in ("on", "degraded")
    assert said(server) == ["warm", "warm?"]


def test_two_servers_that_start_at_once_on_one_folder_share_its_postgresql(
    start_server: StartServer, provider: FakeProvider, tmp_path: Path
) -> None:
    servers = [Server(tmp_path / "reservoir", provider.base_url) for _ in range(2)]
    try:
        for one in servers:
            one.start(ready=False)
        for one in servers:
            one.wait_until_ready()
        for n, one in enumerate(servers):
            ask(one, f"from {n}")
        assert said(servers[0]) == ["from 0", "from 1"]
        kill(postmaster(servers[0].home) or 0)
        for n, one in enumerate(servers):
            ask(one, f"again {n}")
        for one in servers:
            recovered(one)
        assert said(servers[0]) == ["from 0", "from 1", "again 0", "again 1"]
    finally:
        for one in servers:
            one.__exit__()


def test_a_question_whose_server_died_is_kept_and_marked(server: Server, provider: FakeProvider) -> None:
    from tests.fake_provider import Answer, Gate

    gate = Gate()
    provider.answer(Answer(before=[gate]))
    with postgres_away(server.home), ThreadPoolExecutor(1) as client:
        asking = client.submit(ask, server, "nobody answered")
        gate.reached.wait(10)
        eventually(lambda: b"nobody answered" in b"".join(p.read_bytes() for p in (server.home / "spool").iterdir()))
        server.kill()
        with pytest.raises(httpx.TransportError):
            asking.result()
    gate.open()
    server.start()
    recovered(server)
    assert said(server) == ["warm", "nobody answered"]
    ended = rows(server.home, "SELECT ended FROM conversations_exchange ORDER BY id")
    assert ended == [("answered",), ("interrupted",)]
    assert json.dumps(ended)
