"""The embedded PostgreSQL: who keeps it running, and when it stops. Where it lies, postgres_folder.py says.

Its folder has three lock files. The kernel drops the flock of a killed process, so no lock can lie about who is
alive, as process ids in files do:

    lifecycle.lock  exclusive, held while somebody starts or stops PostgreSQL: one at a time
    holders.lock    shared, held by every process that uses PostgreSQL; whoever leaves and then gets it
                    exclusively was the last one, and stops PostgreSQL
    family.lock     shared, inherited by PostgreSQL and all its children (also by initdb); while anybody holds
                    it, something of the old server may still write, and no new one may start

Clients connect as the role `reservoir`, which owns its database and is no superuser: a slip in a query can
neither run programs nor read files. pgvector may only be installed by a superuser, so it is put into the
template, and every new database of the cluster has it.
"""

import atexit
import fcntl
import logging
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo

from reservoir_site.postgres_folder import (
    MAJOR,
    NAME,
    PORT,
    Folder,
    PostgresError,
    opened,
    program,
    run,
)

logger = logging.getLogger(__name__)

TELL_EVERY = 10.0  # seconds, while we wait
STOP_SECONDS = 5.0  # for PostgreSQL to stop before it is left to do that by itself
LOOK_EVERY = 2.0  # seconds between two looks whether PostgreSQL does anything at all
STUCK_SECONDS = 10.0  # without doing anything; to end the processes of a crash takes it 5 at most
STARTS = 3  # PostgreSQL may be killed while it recovers; one that cannot start fails every time

SETTINGS = (
    "listen_addresses=",
    f"port={PORT}",
    "unix_socket_permissions=0700",
    "fsync=on",
    "full_page_writes=on",
    "synchronous_commit=on",
    "max_connections=100",
    "shared_buffers=512MB",  # taken as needed; recall reads 150 MB for 10,000 messages that lie among others
    "jit=off",
    "max_parallel_maintenance_workers=0",  # a parallel HNSW build outgrows a container's /dev/shm of 64 MB
    "timezone=UTC",
    "log_timezone=UTC",
    "log_checkpoints=off",
    "log_min_error_statement=panic",  # people's words do not belong in a log: neither the statement
    "log_error_verbosity=terse",  # nor the "Key (...)=(...) already exists"
)
INITDB = (
    "--username=postgres",
    "--auth=trust",  # whoever reaches the socket has passed two folders of mode 0700
    "--encoding=UTF8",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--locale=C",
    "--lc-ctype=C.UTF-8",  # under plain C the text search takes “ and — for letters
    "--text-search-config=english",
    "--no-instructions",
)
# Of PostgreSQL's processes, those that tell that it runs (the first) or recovers.
AT_WORK = ("walwriter", "startup")


class _Enough(PostgresError):
    """Waiting was given up."""


class EmbeddedPostgres:
    """The PostgreSQL of one home, shared by every process that holds it."""

    def __init__(self, home: Path) -> None:
        self.folder = Folder(home)
        self.location = self.folder.location
        self._held: tuple[int, int] | None = None  # (process id, file descriptor of holders.lock)
        self._leaving = False  # this process waits for nothing any more
        self._looked = self._at_work = time.monotonic()
        self._exit_is_registered = False

    def hold(self) -> None:
        """Count this process as a user, and return when PostgreSQL answers and the database exists.

        A forked child does not inherit the hold: it can release nothing by accident, and holds for itself.
        """
        with _as_postgres_errors(self.folder.path):
            self.folder.make()
            self._leaving = False
            with self._lifecycle():
                if self.is_held():
                    return
                holders = self.folder.open("holders.lock")
                fcntl.flock(holders, fcntl.LOCK_SH)
                self._held = (os.getpid(), holders)
                try:
                    self._bring_up()
                except BaseException:
                    with suppress(_Enough):
                        self._leave(_after(STOP_SECONDS))
                    raise
        if not self._exit_is_registered:
            atexit.register(self.release)
            self._exit_is_registered = True

    def release(self) -> None:
        """Drop this process's hold, and stop PostgreSQL when nobody else has one.

        Waits STOP_SECONDS for that. PostgreSQL that hangs has been told by then, and stops as soon as it can; whoever
        starts it next waits until it has.
        """
        self._leaving = True  # a thread that waits for a recovery lets go of the lock that is needed here
        if not self.is_held():
            return
        enough = _after(STOP_SECONDS)
        with _as_postgres_errors(self.folder.path):
            try:
                with self._lifecycle(enough):
                    self._leave(enough)
            except _Enough:
                logger.warning("PostgreSQL in %s has not stopped by now, and is not waited for.", self.folder.path)
            finally:
                self._let_go()

    def ensure_running(self) -> None:
        """Start PostgreSQL again if it died, and wait out its recovery; cheap when it answers.

        Does nothing without a hold: a supervising thread must not restart what the exit has just stopped.
        """
        with _as_postgres_errors(self.folder.path):
            self.folder.trim_log()
            if not self.is_held() or self._ping() == pq.Ping.OK:
                return
            self.folder.make()  # the short socket folder may have been swept away
            with suppress(_Enough), self._lifecycle():
                if self.is_held():
                    self._bring_up()

    def is_held(self) -> bool:
        """Whether this process counts as a user."""
        return self._held is not None and self._held[0] == os.getpid()

    def is_alive(self) -> bool:
        """Whether somebody listens on the socket: true during recovery too, and fooled by no process id."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1)
            try:
                probe.connect(str(self.folder.socket))
            except (BlockingIOError, TimeoutError):
                return True  # the queue of connections is full: busy, not dead
            except OSError:
                return False
            return True

    def is_stuck(self) -> bool:
        """Whether PostgreSQL has neither run nor recovered for a while, and is to be started anew.

        After a crash of one of its processes it begins again by itself. If the process that recovers is killed in
        the middle of that (as by the kernel, which is out of memory), PostgreSQL 18 does not notice, and turns
        everybody away for good.
        """
        now = time.monotonic()
        since = now - self._looked
        if since < LOOK_EVERY:
            return False
        self._looked = now
        unseen = since > STUCK_SECONDS / 2  # what was in the meantime nobody knows
        if unseen or self._postmaster() is None or any(t.startswith(AT_WORK) for t in self._family().values()):
            self._at_work = now
        return now - self._at_work > STUCK_SECONDS

    # ---- starting -------------------------------------------------------------------------------------

    def _bring_up(self) -> None:
        """Look at what there is and take the next step, until PostgreSQL answers."""
        starts = 0
        waiting = f"PostgreSQL in {self.folder.path} to answer (a recovery takes as long as it takes)"
        for _ in _moments(waiting, lambda: self._leaving):
            if self._ping() == pq.Ping.OK:
                break
            if self._family_lives():
                self._end_stuck()
                self._end_orphans()
            elif starts == STARTS:
                raise PostgresError(
                    f"PostgreSQL does not start: {self.folder.last_complaint()} (see {self.folder.log})."
                )
            else:
                self._start()
                self._at_work = time.monotonic()
                starts += 1
        self._create_database()

    def _start(self) -> None:
        """Start PostgreSQL as nobody's child; only called when nothing of an earlier one is left."""
        with self.folder.file("family.lock") as family:  # closed here without unlocking: the server inherits it
            fcntl.flock(family, fcntl.LOCK_SH)
            prefix = self.folder.as_user()
            if not self.folder.data.exists():
                self._initdb(prefix, family)
            self._check_version()
            # PostgreSQL would believe a stale file whose process id has been given to somebody else.
            for stale in (
                self.folder.data / "postmaster.pid",
                self.folder.socket,
                Path(f"{self.folder.socket}.lock"),
            ):
                stale.unlink(missing_ok=True)
            server = [*prefix, program("postgres"), "-D", str(self.folder.data)]
            server += [f"--unix_socket_directories={self.location.host}", f"--cluster_name={self.folder.mark}"]
            server += [f"--{setting}" for setting in SETTINGS]
            self.folder.trim_log()
            with self.folder.file("log", os.O_WRONLY | os.O_APPEND) as log:
                # The shell leaves at once and init adopts the server: a child of ours would stay a zombie
                # after a kill, until we looked.
                run(["/bin/sh", "-c", '"$@" &', "sh", *server], keep=family, output=log)

    def _initdb(self, prefix: list[str], family: int) -> None:
        """Make the data folder whole or not at all, so that one killed half way is simply made again."""
        unfinished = self.folder.data.with_name("data.unfinished")
        if unfinished.exists():
            shutil.rmtree(unfinished)
        logger.info("Making a new PostgreSQL data folder in %s.", self.folder.data)
        done = run([*prefix, program("initdb"), "-D", str(unfinished), *INITDB], keep=family)
        if done.returncode != 0:
            reason = (done.stdout.strip().splitlines() or ["no reason given"])[-1]
            raise PostgresError(f"The data folder {self.folder.data} cannot be made: {reason}")
        unfinished.rename(self.folder.data)
        with opened(self.folder.path, os.O_RDONLY) as folder:
            os.fsync(folder)  # or a power cut brings the unfinished name back, with people's rows in it

    def _check_version(self) -> None:
        found = (self.folder.data / "PG_VERSION").read_text().strip()
        if found != MAJOR:
            raise PostgresError(
                f"{self.folder.data} was written by PostgreSQL {found} and this Reservoir runs PostgreSQL {MAJOR}: "
                "export with the Reservoir that wrote it and import here under another RESERVOIR_HOME, "
                "or set DATABASE_URL to a server of your own."
            )

    def _create_database(self) -> None:
        with self._connect("postgres") as connection:
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [NAME]).fetchone():
                return
            if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [NAME]).fetchone():
                connection.execute(f"CREATE ROLE {NAME} LOGIN CREATEDB")
            with self._connect("template1") as template:
                template.execute("CREATE EXTENSION IF NOT EXISTS vector")
            connection.execute(f"CREATE DATABASE {NAME} OWNER {NAME}")  # last: its existence says all is made

    def _connect(self, dbname: str) -> psycopg.Connection[tuple[object, ...]]:
        where = self.location.host
        return psycopg.connect(host=where, port=PORT, user="postgres", dbname=dbname, autocommit=True)

    # ---- stopping -------------------------------------------------------------------------------------

    def _leave(self, enough: Callable[[], bool]) -> None:
        """Drop the hold; whoever then finds no other holder stops PostgreSQL."""
        assert self._held is not None
        _, holders = self._held
        try:
            fcntl.flock(holders, fcntl.LOCK_UN)  # said aloud: a forked child may keep a copy open
            if _try_exclusive(holders):
                self._stop(enough)
        finally:
            self._let_go()

    def _let_go(self) -> None:
        if self._held is not None:
            os.close(self._held[1])
            self._held = None

    def _stop(self, enough: Callable[[], bool]) -> None:
        """Fast shutdown: ends the connections, writes a checkpoint, and takes as long as that takes."""
        told = None
        for _ in _moments(f"PostgreSQL in {self.folder.path} to stop", enough):
            if not self._family_lives():
                break
            postmaster = self._postmaster()
            if postmaster is None:
                self._end_orphans()
            elif postmaster != told:
                with suppress(ProcessLookupError):
                    os.kill(postmaster, signal.SIGINT)
                told = postmaster

    # ---- who is alive ---------------------------------------------------------------------------------

    def _ping(self) -> int:
        # Not for long: is_stuck() has to look in between.
        where = make_conninfo(host=self.location.host, port=PORT, user="postgres", dbname="postgres")
        return pq.PGconn.ping(f"{where} connect_timeout=2".encode())

    def _family_lives(self) -> bool:
        """Whether any process of PostgreSQL is left; ask under the lifecycle lock only."""
        with self.folder.file("family.lock") as family:
            return not _try_exclusive(family)

    def _postmaster(self) -> int | None:
        """The process id in postmaster.pid, if that process is ours: the id may have been given away."""
        try:
            pid = int((self.folder.data / "postmaster.pid").read_text().split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return None
        return pid if self.folder.mark in _command_line(pid) else None

    def _end_orphans(self) -> None:
        """End children that outlive a killed postmaster: most leave by themselves, a long query does not.

        No signal is too rude here. They are as good as crashed, and the next start recovers from that.
        """
        if self._postmaster() is not None or not (self.folder.data / "postmaster.pid").exists():
            return  # alive, or about to write the file
        for pid in self._family():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _end_stuck(self) -> None:
        if self.is_stuck() and (postmaster := self._postmaster()):
            logger.warning("PostgreSQL in %s neither runs nor recovers, and is started anew.", self.folder.path)
            with suppress(ProcessLookupError):
                os.kill(postmaster, signal.SIGKILL)

    def _family(self) -> dict[int, str]:
        """PostgreSQL's processes but the postmaster, and what each is there for."""
        mark = f"postgres: {self.folder.mark}: "
        pids = [int(process.name) for process in Path("/proc").glob("[0-9]*")]
        titles = {pid: _command_line(pid) for pid in pids}
        return {pid: title.removeprefix(mark) for pid, title in titles.items() if title.startswith(mark)}

    @contextmanager
    def _lifecycle(self, enough: Callable[[], bool] | None = None) -> Iterator[None]:
        enough = enough or (lambda: self._leaving)
        with self.folder.file("lifecycle.lock") as lock:
            for _ in _moments(f"another process that starts or stops PostgreSQL in {self.folder.path}", enough):
                if _try_exclusive(lock):
                    break
            try:
                yield
            finally:
                fcntl.flock(lock, fcntl.LOCK_UN)  # said aloud: a child forked meanwhile keeps a copy open


def _command_line(pid: int) -> str:
    """What a process was started as, or calls itself since; empty when it is dead, also while a zombie."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _try_exclusive(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _after(seconds: float) -> Callable[[], bool]:
    """Whether so much time has passed since now."""
    deadline = time.monotonic() + seconds
    return lambda: time.monotonic() > deadline


def _moments(what: str, enough: Callable[[], bool]) -> Iterator[None]:
    """Moments at which to look again, for as long as it takes; says now and then what is waited for.

    Raises _Enough once `enough` says so.
    """
    begun = told = time.monotonic()
    pause = 0.01
    while True:
        yield
        if enough():
            raise _Enough(f"{what[0].upper()}{what[1:]} took too long.")
        time.sleep(pause)
        pause = min(pause * 1.2, 0.5)
        if time.monotonic() - told > TELL_EVERY:
            told = time.monotonic()
            logger.info("Still waiting for %s: %d seconds so far.", what, told - begun)


@contextmanager
def _as_postgres_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, psycopg.Error) as error:
        raise PostgresError(
            f"The embedded PostgreSQL in {folder} cannot be used ({str(error).strip()}): "
            f"see {folder}/log, or set DATABASE_URL to a server of your own."
        ) from error
