"""The processes of the embedded PostgreSQL: which are alive, what they do, and how stray ones are ended.

Process ids in files lie after a kill. The flock on family.lock and the mark in each process's title do not.
"""

import fcntl
import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

from psycopg import pq
from psycopg.conninfo import make_conninfo

from reservoir_site.postgres_folder import PORT, Folder

CHECK_EVERY = 2.0  # seconds between two checks for activity
STUCK_SECONDS = 10.0  # without activity; PostgreSQL needs at most 5 to end its processes after a crash
# The first runs while PostgreSQL serves, the second while it recovers.
ACTIVE = ("walwriter", "startup")


class Processes:
    """PostgreSQL's processes in one folder: the postmaster and its children."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._checked = self._active = time.monotonic()

    def answer(self) -> bool:
        """Whether PostgreSQL accepts connections; waits at most two seconds, as is_stuck() must be asked in between."""
        where = make_conninfo(host=self._folder.location.host, port=PORT, user="postgres", dbname="postgres")
        return pq.PGconn.ping(f"{where} connect_timeout=2".encode()) == pq.Ping.OK

    def listen(self) -> bool:
        """Whether a process listens on the socket: true during recovery too, and never fooled by a process id."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1)
            try:
                probe.connect(str(self._folder.socket))
            except (BlockingIOError, TimeoutError):
                return True  # the queue of connections is full: busy, not dead
            except OSError:
                return False
            return True

    def are_left(self) -> bool:
        """Whether any process of PostgreSQL is left; ask only while holding lifecycle.lock."""
        with self._folder.file("family.lock") as family:
            return not try_exclusive(family)

    def postmaster(self) -> int | None:
        """The process id in postmaster.pid if that process is ours; the system may have reused the id."""
        try:
            pid = int((self._folder.data / "postmaster.pid").read_text().split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return None
        return pid if self._folder.mark in _command_line(pid) else None

    def is_stuck(self) -> bool:
        """Whether PostgreSQL has neither served nor recovered for STUCK_SECONDS and needs a restart.

        PostgreSQL recovers by itself after one of its processes crashes. If the recovering process is killed too, for
        example by the kernel when memory runs out, PostgreSQL 18 does not notice and refuses all connections until it
        is restarted.
        """
        now = time.monotonic()
        since = now - self._checked
        if since < CHECK_EVERY:
            return False
        self._checked = now
        unobserved = since > STUCK_SECONDS / 2  # PostgreSQL may have been active in the meantime
        active = any(role.startswith(ACTIVE) for role in self._children().values())
        if unobserved or self.postmaster() is None or active:
            self._active = now
        return now - self._active > STUCK_SECONDS

    def have_started(self) -> None:
        """Note a start, from which is_stuck() counts."""
        self._active = time.monotonic()

    def end_orphans(self) -> None:
        """Kill children that outlive a killed postmaster: most exit by themselves, one with a long query does not.

        SIGKILL does no harm: the next start recovers from the crash anyway.
        """
        if self.postmaster() is not None or not (self._folder.data / "postmaster.pid").exists():
            return  # alive, or about to write the file
        for pid in self._children():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _children(self) -> dict[int, str]:
        """The postmaster's children by process id, each with its role, such as "walwriter"."""
        mark = f"postgres: {self._folder.mark}: "
        pids = [int(process.name) for process in Path("/proc").glob("[0-9]*")]
        titles = {pid: _command_line(pid) for pid in pids}
        return {pid: title.removeprefix(mark) for pid, title in titles.items() if title.startswith(mark)}


def try_exclusive(lock: int) -> bool:
    """Take an exclusive flock if no other process has one; returns at once."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _command_line(pid: int) -> str:
    """A process's title; empty for a dead process and for a zombie."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
