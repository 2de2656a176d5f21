"""The embedded PostgreSQL: which processes use it, when it starts and when it stops.

postgres_folder.py says where it lies, postgres_cluster.py starts it, postgres_processes.py watches its processes.

Its folder has three lock files. The kernel drops the flock of a killed process, so a lock cannot lie about who is
alive, as process ids in files do:

    lifecycle.lock  exclusive, held while a process starts or stops PostgreSQL: one at a time
    holders.lock    shared, held by every process that uses PostgreSQL; a process that leaves and then gets it
                    exclusively was the last one, and stops PostgreSQL
    family.lock     shared, inherited by PostgreSQL and all its children (also by initdb); while any process
                    holds it, the old server may still write, and no new one may start
"""

import atexit
import fcntl
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg

from reservoir_site import postgres_cluster
from reservoir_site.postgres_folder import Folder, PostgresError
from reservoir_site.postgres_processes import Processes, try_exclusive

logger = logging.getLogger(__name__)

TELL_EVERY = 10.0  # seconds between two log lines about the same wait
STOP_SECONDS = 5.0  # to wait for PostgreSQL to stop; then it stops on its own
STARTS = 3  # PostgreSQL may be killed while it recovers; if it cannot start, every attempt fails


class _GaveUp(PostgresError):
    """The wait was given up."""


class EmbeddedPostgres:
    """The PostgreSQL of one home, shared by every process that holds it."""

    def __init__(self, home: Path) -> None:
        self.folder = Folder(home)
        self.location = self.folder.location
        self._processes = Processes(self.folder)
        self._held: tuple[int, int] | None = None  # (process id, file descriptor of holders.lock)
        self._leaving = False  # this process gives up every wait
        self._exit_is_registered = False

    def hold(self) -> None:
        """Count this process as a user; return when PostgreSQL answers and the database exists.

        A forked child does not inherit the hold, so it cannot release it by accident; it takes its own.
        Raises PostgresError.
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
                    with suppress(_GaveUp):
                        self._leave(_after(STOP_SECONDS))
                    raise
        if not self._exit_is_registered:
            atexit.register(self.release)
            self._exit_is_registered = True

    def release(self) -> None:
        """Drop this process's hold, and stop PostgreSQL when no other process has one.

        Waits STOP_SECONDS. A hung PostgreSQL has its signal by then and stops as soon as it can; the next process that
        starts it waits for that. Raises PostgresError.
        """
        self._leaving = True  # makes a thread that waits for a recovery drop the lock that is needed here
        if not self.is_held():
            return
        enough = _after(STOP_SECONDS)
        with _as_postgres_errors(self.folder.path):
            try:
                with self._lifecycle(enough):
                    self._leave(enough)
            except _GaveUp:
                logger.warning("PostgreSQL in %s is still stopping; not waiting any longer.", self.folder.path)
            finally:
                self._let_go()

    def ensure_running(self) -> None:
        """Restart PostgreSQL if it died, and wait out its recovery; cheap when it answers.

        Does nothing without a hold: a supervising thread must not restart what the exit has just stopped.
        Raises PostgresError.
        """
        with _as_postgres_errors(self.folder.path):
            self.folder.trim_log()
            if not self.is_held() or self._processes.answer():
                return
            self.folder.make()  # a cleaner of /tmp may have removed the short socket folder
            with suppress(_GaveUp), self._lifecycle():
                if self.is_held():
                    self._bring_up()

    def is_held(self) -> bool:
        """Whether this process counts as a user."""
        return self._held is not None and self._held[0] == os.getpid()

    def is_alive(self) -> bool:
        """Whether PostgreSQL listens on its socket; true during recovery too."""
        return self._processes.listen()

    def is_stuck(self) -> bool:
        """Whether PostgreSQL has neither served nor recovered for a while and needs a restart."""
        return self._processes.is_stuck()

    # ---- starting -------------------------------------------------------------------------------------

    def _bring_up(self) -> None:
        """Take the next step that the situation needs, until PostgreSQL answers."""
        starts = 0
        waiting = f"PostgreSQL in {self.folder.path} to answer (a recovery can take long)"
        for _ in _moments(waiting, lambda: self._leaving):
            if self._processes.answer():
                break
            if self._processes.are_left():
                self._end_stuck()
                self._processes.end_orphans()
            elif starts == STARTS:
                raise PostgresError(
                    f"PostgreSQL does not start: {self.folder.last_complaint()} (see {self.folder.log})."
                )
            else:
                postgres_cluster.start(self.folder)
                self._processes.have_started()
                starts += 1
        postgres_cluster.create_database(self.folder)

    def _end_stuck(self) -> None:
        if self.is_stuck() and (postmaster := self._processes.postmaster()):
            logger.warning("PostgreSQL in %s neither serves nor recovers; restarting it.", self.folder.path)
            with suppress(ProcessLookupError):
                os.kill(postmaster, signal.SIGKILL)

    # ---- stopping -------------------------------------------------------------------------------------

    def _leave(self, enough: Callable[[], bool]) -> None:
        """Drop the hold; stop PostgreSQL if no other process holds it."""
        assert self._held is not None
        _, holders = self._held
        try:
            fcntl.flock(holders, fcntl.LOCK_UN)  # closing is not enough: a forked child may keep a copy open
            if try_exclusive(holders):
                self._stop(enough)
        finally:
            self._let_go()

    def _let_go(self) -> None:
        if self._held is not None:
            os.close(self._held[1])
            self._held = None

    def _stop(self, enough: Callable[[], bool]) -> None:
        """Shut PostgreSQL down fast: it ends connections and writes a checkpoint, however long that takes."""
        told = None
        for _ in _moments(f"PostgreSQL in {self.folder.path} to stop", enough):
            if not self._processes.are_left():
                break
            postmaster = self._processes.postmaster()
            if postmaster is None:
                self._processes.end_orphans()
            elif postmaster != told:
                with suppress(ProcessLookupError):
                    os.kill(postmaster, signal.SIGINT)
                told = postmaster

    @contextmanager
    def _lifecycle(self, enough: Callable[[], bool] | None = None) -> Iterator[None]:
        enough = enough or (lambda: self._leaving)
        with self.folder.file("lifecycle.lock") as lock:
            for _ in _moments(f"another process that starts or stops PostgreSQL in {self.folder.path}", enough):
                if try_exclusive(lock):
                    break
            try:
                yield
            finally:
                fcntl.flock(lock, fcntl.LOCK_UN)  # closing is not enough: a forked child may keep a copy open


def _after(seconds: float) -> Callable[[], bool]:
    """A function that tells whether this many seconds have passed since now."""
    deadline = time.monotonic() + seconds
    return lambda: time.monotonic() > deadline


def _moments(what: str, enough: Callable[[], bool]) -> Iterator[None]:
    """Moments at which to check again, without limit; logs from time to time what the wait is for.

    Raises _GaveUp once `enough` returns True.
    """
    begun = told = time.monotonic()
    pause = 0.01
    while True:
        yield
        if enough():
            raise _GaveUp(f"{what[0].upper()}{what[1:]} took too long.")
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
