"""Ways to break the server and PostgreSQL: kill, freeze, lock, fill the disk."""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import resource
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg

from reservoir_site.postgres_folder import embedded_location
from tests.faults.clients import Ledger
from tests.faults.watching import children, command_line, postmaster, workers
from tests.server import Server

ROOM = 2**20  # bytes that a file may have on the full disk: less than the write-ahead log after the first migrations


def kill(pid: int) -> bool:
    """kill -9. Returns whether the process existed; pid 0 stands for no process, not for our process group."""
    if not pid:
        return False
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Stop a process and its children (SIGSTOP): they exist, and answer nothing."""
    with standing_still([pid, *children(pid)]):
        yield


@contextmanager
def standing_still(family: list[int]) -> Iterator[list[int]]:
    """Stop these processes (SIGSTOP). Yields those that still exist."""
    for one in family:
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGSTOP)
    try:
        yield [one for one in family if command_line(one)]
    finally:
        for one in reversed(family):
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGCONT)


@contextmanager
def postgres_down(home: Path) -> Iterator[None]:
    """Kill PostgreSQL and keep it from being started until the end."""
    with (home / "postgres" / "lifecycle.lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert kill(postmaster(home) or 0)
        yield


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Lock every table as a migration does."""
    where = embedded_location(home)
    with psycopg.connect(host=where.host, port=where.port, user=where.user, dbname=where.dbname) as connection:
        connection.execute("LOCK TABLE conversations_message, conversations_exchange, conversations_instance")
        yield


@contextmanager
def no_room(server: Server) -> Iterator[None]:
    """PostgreSQL finds its disk full each time it starts.

    A limit on the size of files stands in for the full disk: PostgreSQL treats both alike. Writes beyond the limit
    fail, above all those to the write-ahead log, and PostgreSQL exits. It inherits the limit from the server.
    """
    assert server.process
    kept = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (ROOM, kept[1]))
    kill(postmaster(server.home) or 0)
    try:
        yield
    finally:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, kept)
        kill(postmaster(server.home) or 0)


class Chaos:
    """Kills servers, workers and PostgreSQL on a schedule from a seed: about once per `every` answered exchanges.

    With `recovered` it waits until the latest answer says that memory is on, so that each kill hits a database in use.
    """

    def __init__(self, server: Server, ledger: Ledger, *, seed: int, every: int, recovered: bool = False) -> None:
        self.killed: Counter[str] = Counter()
        self._server = server
        self._ledger = ledger
        self._rng = random.Random(seed)
        self._every = every
        self._recovered = recovered
        self._ways = {"worker": self._worker, "postmaster": self._postmaster, "backend": self._backend}

    @property
    def kills(self) -> int:
        return self.killed.total()

    async def run(self, until: Callable[[], bool]) -> None:
        """Kill at random intervals until `until` returns True; every eighth kill takes the whole server."""
        while not until():
            # Sometimes immediately after the last kill, during a recovery.
            due = len(self._ledger.answered) + int(self._every * self._rng.choice([0.1, 0.9, 1.0, 1.5]))
            while not (self._is_due(due) or until()):  # noqa: ASYNC110 - it is a list, not an event
                await asyncio.sleep(self._rng.uniform(0.05, 0.15))
            if self.kills % 8 == 5:
                for pid in workers(self._server):
                    kill(pid)
                self._server.kill()
                self.killed["server"] += 1
                await asyncio.to_thread(self._server.start)
            else:
                name = self._rng.choice(list(self._ways))
                self.killed[name] += self._ways[name]()

    def _is_due(self, count: int) -> bool:
        answered = self._ledger.answered
        return len(answered) >= count and (answered[-1].memory == "on" or not self._recovered)

    def _worker(self) -> bool:
        pids = workers(self._server)
        return len(pids) > 1 and kill(self._rng.choice(pids))

    def _postmaster(self) -> bool:
        pid = postmaster(self._server.home)
        return pid is not None and kill(pid)

    def _backend(self) -> bool:
        """Kill one of PostgreSQL's processes: it then closes all connections and recovers."""
        pids = children(postmaster(self._server.home) or 0)
        return bool(pids) and kill(self._rng.choice(pids))
