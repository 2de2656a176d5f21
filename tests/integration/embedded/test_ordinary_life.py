"""The embedded PostgreSQL is created, held, shared and released; failures are one sentence."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from reservoir_site.postgres import EmbeddedPostgres
from reservoir_site.postgres_folder import LONGEST_LOG, PostgresError, embedded_location
from tests.integration.embedded.processes import (
    Holder,
    exit_code_in_a_fork,
    postmaster_of,
    processes_of,
    query,
)

# --- from start to stop ------------------------------------------------------------------------------


def test_reading_the_location_creates_nothing(home: Path) -> None:
    where = embedded_location(home)
    assert (where.port, where.user, where.dbname, where.password) == (5432, "reservoir", "reservoir", "")
    EmbeddedPostgres(home)
    assert not home.exists()
    assert not Path(where.host).exists()


def test_all_spellings_of_a_home_are_one_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir()
    link = home.parent / "link"
    link.symlink_to(home)
    monkeypatch.chdir(home.parent)
    assert embedded_location(link) == embedded_location(Path("home")) == embedded_location(home)


def test_the_first_start_makes_a_database_with_pgvector_and_english_text_search(home: Path) -> None:
    server = EmbeddedPostgres(home)
    assert not server.is_alive()
    server.hold()
    try:
        assert server.is_alive()
        [found] = query(
            home,
            "SELECT '[1,2]'::vector <=> '[1,2]', to_tsvector('english', '“Dogs” — running')::text,"
            " lower('ÄÖÜ'), current_setting('server_version_num')::int / 10000,"
            " current_setting('server_encoding'), current_setting('data_checksums')",
        )
        assert found == (0.0, "'dog':1 'run':2", "äöü", 18, "UTF8", "on")
        query(home, "CREATE EXTENSION IF NOT EXISTS vector")  # as a migration does
        query(home, "CREATE DATABASE test_reservoir")  # as a test run does
    finally:
        server.release()
    assert processes_of(home) == set()


def test_commits_are_flushed_and_no_port_is_open(shared_home: Path) -> None:
    settings = {str(name): value for name, value in query(shared_home, "SELECT name, setting FROM pg_settings")}
    durable = ("fsync", "full_page_writes", "synchronous_commit")
    assert [settings[name] for name in durable] == ["on", "on", "on"]
    assert settings["listen_addresses"] == ""


def test_the_clients_role_can_run_no_programs_and_read_no_files(shared_home: Path) -> None:
    query(shared_home, "CREATE TABLE lines (line text)")
    for crime in ("COPY lines FROM PROGRAM 'id'", "COPY lines FROM '/etc/passwd'", "CREATE ROLE r SUPERUSER"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            query(shared_home, crime)


def test_holding_is_idempotent_and_a_released_server_can_be_held_again(home: Path) -> None:
    server = EmbeddedPostgres(home)
    server.hold()
    first = postmaster_of(home)
    server.hold()
    assert postmaster_of(home) == first
    server.release()
    assert not server.is_alive()
    server.release()
    server.hold()
    assert server.is_alive()
    server.release()
    assert processes_of(home) == set()


def test_a_second_process_shares_it_and_the_last_clean_exit_stops_it(
    home: Path, start: Callable[[Path], Holder]
) -> None:
    first = start(home).wait_until_it_holds()
    postmaster = postmaster_of(home)
    second = start(home).wait_until_it_holds()
    assert postmaster_of(home) == postmaster
    first.exit()
    assert query(home, "SELECT 1") == [(1,)]
    second.exit()
    assert processes_of(home) == set()
    assert not (home / "postgres" / "data" / "postmaster.pid").exists()


def test_processes_that_start_together_on_a_fresh_home_all_work(home: Path, start: Callable[[Path], Holder]) -> None:
    holders = [start(home) for _ in range(4)]
    for holder in holders:
        holder.wait_until_it_holds()
    assert query(home, "SELECT 1") == [(1,)]
    for holder in holders:
        holder.exit()
    assert processes_of(home) == set()


def test_a_start_during_a_stop_works(home: Path, start: Callable[[Path], Holder]) -> None:
    holder = start(home).wait_until_it_holds()
    for _ in range(5):
        assert holder.process.stdin is not None
        holder.process.stdin.close()
        following = start(home).wait_until_it_holds()
        assert query(home, "SELECT 1") == [(1,)]
        holder.process.wait(timeout=300)
        holder = following
    holder.exit()
    assert processes_of(home) == set()


def test_a_forked_child_does_not_release_its_parents_hold_and_can_hold_its_own(
    shared_home: Path, running: EmbeddedPostgres
) -> None:
    assert exit_code_in_a_fork(running.release) == 0
    assert running.is_alive()

    def hold_and_release() -> None:
        running.hold()
        running.release()

    assert exit_code_in_a_fork(hold_and_release) == 0
    assert running.is_alive()


def test_a_server_without_a_holder_is_not_restarted(home: Path) -> None:
    server = EmbeddedPostgres(home)
    server.hold()
    server.release()
    server.ensure_running()
    assert not server.is_alive()


# --- failures ----------------------------------------------------------------------------------------


def test_data_of_another_version_is_refused_with_a_remedy(home: Path) -> None:
    server = EmbeddedPostgres(home)
    server.hold()
    server.release()
    (home / "postgres" / "data" / "PG_VERSION").write_text("16\n")
    with pytest.raises(PostgresError, match=r"PostgreSQL 16 .* PostgreSQL 18: export .* DATABASE_URL"):
        server.hold()
    assert processes_of(home) == set()


def test_a_failed_start_names_the_cause_and_the_log(home: Path) -> None:
    server = EmbeddedPostgres(home)
    server.hold()
    server.release()
    (home / "postgres" / "data" / "postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(PostgresError, match=rf"configuration file .* contains errors \(see {home}/postgres/log"):
        server.hold()
    assert processes_of(home) == set()


def test_a_home_that_cannot_be_created_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PostgresError, match="DATABASE_URL"):
        EmbeddedPostgres(tmp_path / "file" / "home").hold()


def test_the_log_has_a_size_limit(shared_home: Path, running: EmbeddedPostgres) -> None:
    log = shared_home / "postgres" / "log"
    with log.open("a") as lines:
        lines.write("x" * (LONGEST_LOG + 1))
    running.ensure_running()
    assert log.stat().st_size < LONGEST_LOG / 4
    query(shared_home, "DO $$ BEGIN RAISE WARNING 'still written'; END $$")
    assert "still written" in log.read_text()


def test_the_log_contains_no_user_text(shared_home: Path) -> None:
    query(shared_home, "CREATE TABLE t (words text UNIQUE)")
    query(shared_home, "INSERT INTO t VALUES ('my secret')")
    with pytest.raises(psycopg.errors.UniqueViolation):
        query(shared_home, "INSERT INTO t VALUES ('my secret')")
    assert "secret" not in (shared_home / "postgres" / "log").read_text()


def test_a_long_wait_explains_itself(
    home: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reservoir_site.postgres.TELL_EVERY", 0.05)
    server = EmbeddedPostgres(home)
    with caplog.at_level(logging.INFO, logger="reservoir_site.postgres"):
        server.hold()
        server.release()
    assert "Still waiting for PostgreSQL" in caplog.text
