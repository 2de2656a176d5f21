"""The embedded PostgreSQL when its real processes, or its holders, are killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from reservoir_site import postgres_processes
from reservoir_site.postgres import EmbeddedPostgres
from tests.integration.embedded.processes import (
    Holder,
    command_lines,
    connect,
    eventually,
    postmaster_of,
    processes_of,
    query,
)


def test_a_clean_exit_stops_it_even_if_another_holder_was_killed(home: Path, start: Callable[[Path], Holder]) -> None:
    killed = start(home).wait_until_it_holds()
    other = start(home).wait_until_it_holds()
    killed.kill()
    assert query(home, "SELECT 1") == [(1,)]
    other.exit()
    assert processes_of(home) == set()


def test_the_next_holder_stops_a_server_that_killed_holders_left(home: Path, start: Callable[[Path], Holder]) -> None:
    start(home).wait_until_it_holds().kill()
    postmaster = postmaster_of(home)
    following = start(home).wait_until_it_holds()
    assert postmaster_of(home) == postmaster
    following.exit()
    assert processes_of(home) == set()


def test_a_killed_postgres_restarts_and_keeps_its_rows(home: Path) -> None:
    server = EmbeddedPostgres(home)
    server.hold()
    try:
        query(home, "CREATE TABLE t AS SELECT generate_series(1, 50000) AS n")
        for kill in range(3):
            query(home, f"INSERT INTO t VALUES ({-kill})")
            os.kill(postmaster_of(home), signal.SIGKILL)
            assert eventually(lambda: not server.is_alive())
            server.ensure_running()
            assert query(home, "SELECT count(*) FROM t") == [(50_001 + kill,)]
    finally:
        server.release()
    assert processes_of(home) == set()


def test_a_killed_recovery_leads_to_a_restart_and_a_long_recovery_does_not(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = EmbeddedPostgres(home)
    server.hold()
    monkeypatch.setattr(postgres_processes, "CHECK_EVERY", 0.05)
    monkeypatch.setattr(
        postgres_processes, "STUCK_SECONDS", 1.0
    )  # less than the time that ending the processes may take
    query(home, "CREATE TABLE t AS SELECT 42 AS answer")

    def named(what: str) -> list[int]:
        mark = f"postgres: {server.folder.mark}: {what}"
        return [pid for pid, line in command_lines() if line.startswith(mark)]

    first = postmaster_of(home)
    os.kill(named("walwriter")[0], signal.SIGKILL)  # PostgreSQL ends all connections and recovers
    assert eventually(lambda: bool(named("startup")))
    (recovering,) = named("startup")
    os.kill(recovering, signal.SIGSTOP)
    assert not eventually(server.is_stuck, 1.5)
    os.kill(recovering, signal.SIGKILL)
    assert eventually(server.is_stuck), "PostgreSQL has learnt to notice: is_stuck is not needed any more"
    server.ensure_running()
    assert postmaster_of(home) != first
    assert query(home, "SELECT answer FROM t") == [(42,)]
    assert not eventually(server.is_stuck, 1.5)
    server.release()


def test_a_query_that_outlives_its_killed_postgres_ends_before_the_next_start(home: Path) -> None:
    server = EmbeddedPostgres(home)
    server.hold()
    try:
        busy = connect(home)
        [(backend,)] = busy.execute("SELECT pg_backend_pid()").fetchall()
        busy.pgconn.send_query(b"DO 'BEGIN LOOP END LOOP; END'")
        time.sleep(0.1)
        os.kill(postmaster_of(home), signal.SIGKILL)
        assert eventually(lambda: processes_of(home) == {backend})
        server.ensure_running()
        assert backend not in processes_of(home)
        assert query(home, "SELECT 1") == [(1,)]
        busy.close()
    finally:
        server.release()
    assert processes_of(home) == set()


def test_an_exit_after_a_killed_postgres_leaves_no_process(home: Path) -> None:
    server = EmbeddedPostgres(home)
    server.hold()
    os.kill(postmaster_of(home), signal.SIGKILL)
    server.release()
    assert processes_of(home) == set()


def test_a_supervisor_also_restarts_a_server_of_another_process(home: Path, start: Callable[[Path], Holder]) -> None:
    starter = start(home).wait_until_it_holds()
    server = EmbeddedPostgres(home)
    server.hold()
    try:
        os.kill(postmaster_of(home), signal.SIGKILL)
        starter.kill()
        server.ensure_running()
        assert query(home, "SELECT 1") == [(1,)]
    finally:
        server.release()
    assert processes_of(home) == set()


def test_rows_survive_a_kill_of_every_process(home: Path, start: Callable[[Path], Holder]) -> None:
    holder = start(home).wait_until_it_holds()
    query(home, "CREATE TABLE t AS SELECT 7 AS n")
    for pid in processes_of(home) | {holder.process.pid}:
        with suppress(ProcessLookupError):  # children exit on their own once their parent is gone
            os.kill(pid, signal.SIGKILL)
    following = start(home).wait_until_it_holds()
    assert query(home, "SELECT n FROM t") == [(7,)]
    following.exit()
    assert processes_of(home) == set()


def test_a_stale_file_with_the_process_id_of_another_program_is_not_trusted(home: Path) -> None:
    server = EmbeddedPostgres(home)
    server.hold()
    try:
        postmaster = postmaster_of(home)
        os.kill(postmaster, signal.SIGKILL)
        assert eventually(lambda: processes_of(home) == set())
        socket_lock = Path(server.location.host, ".s.PGSQL.5432.lock")
        for stale in (home / "postgres" / "data" / "postmaster.pid", socket_lock):
            stale.write_text(stale.read_text().replace(str(postmaster), str(os.getppid()), 1))
        assert not server.is_alive()
        server.ensure_running()
        assert query(home, "SELECT 1") == [(1,)]
    finally:
        server.release()
    assert processes_of(home) == set()


@pytest.mark.parametrize("also_initdb", [True, False])
def test_a_killed_first_start_is_repeated(home: Path, start: Callable[[Path], Holder], also_initdb: bool) -> None:
    holder = start(home)
    unfinished = home / "postgres" / "data.unfinished"
    assert eventually((unfinished / "base").exists)
    holder.kill()
    if also_initdb:
        for pid, line in command_lines():
            if f"initdb -D {unfinished}" in line:
                os.kill(pid, signal.SIGKILL)
    following = start(home).wait_until_it_holds()
    assert not unfinished.exists()
    assert query(home, "SELECT 1") == [(1,)]
    following.exit()
    assert processes_of(home) == set()
