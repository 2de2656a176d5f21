"""Runs blocking work on a few threads, with a deadline, so that work that hangs delays nothing else.

Deadlines count from the moment work starts. Work that waits for a thread is not late: the machine is busy, and the wait
is as fair as the queue. How long that wait is follows from what was measured: `seconds_to_wait`.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

T = TypeVar("T")

RECENT = 1 / 16  # the weight of the latest piece of work in the mean of what work takes
MOST_SECONDS = 1.0  # what work that hung counts in that mean


class DeadlineExceeded(Exception):
    """The work missed its deadline or was given up, or every thread is occupied by work that did."""


class _Job(Generic[T]):
    """Work on its way through the pool."""

    def __init__(self, work: Callable[[], T]) -> None:
        self.work: Callable[[], T] | None = work
        self.future: Future[T] = Future()
        self.started: float | None = None


class ThreadPool:
    """`size` threads that work off a queue. Each keeps its own database connection.

    The threads are daemons: one that hangs does not keep the process from exiting. `slow` is called, on the event loop,
    when work has been running for `slow_seconds`.
    """

    def __init__(
        self, name: str, size: int, *, slow: Callable[[], None] = lambda: None, slow_seconds: float = 0.3
    ) -> None:
        self._queue: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._expected: set[asyncio.Future[Any]] = set()  # results that callers wait for
        self._late: set[Future[Any]] = set()  # missed their deadline and are still running
        self._size = size
        self._slow, self._slow_seconds = slow, slow_seconds
        self._mean = 0.0  # seconds that work takes
        self._threads = [
            threading.Thread(target=self._serve, name=f"{name}-{number}", daemon=True) for number in range(size)
        ]
        for thread in self._threads:
            thread.start()

    async def run(self, work: Callable[[], T], seconds: float | None) -> T:
        """Do the work on a thread and return its result, or raise its error.

        Raises DeadlineExceeded when it has been running for `seconds` (None: never), when it is given up, and at once
        when late work occupies every thread. Work that has started by then runs to its end; work still queued is
        dropped.
        """
        if self.is_stuck:
            raise DeadlineExceeded
        job = _Job(work)
        result = asyncio.wrap_future(job.future)
        self._expected.add(result)
        self._queue.put(job)
        del work
        try:
            await self._until_done(job, result, seconds)
            if job.future.done() and not job.future.cancelled():
                return job.future.result()
            raise DeadlineExceeded
        finally:
            self._expected.discard(result)
            result.cancel()
            if not job.future.cancel() and not job.future.done():
                self._late.add(job.future)
                job.future.add_done_callback(self._late.discard)
                if self.is_stuck:
                    self.give_up()

    def give_up(self) -> None:
        """End every wait for work: the callers get DeadlineExceeded."""
        for result in self._expected:
            result.cancel()

    @property
    def seconds_to_wait(self) -> float:
        """An estimate of how long new work would wait for a thread, from what work took lately."""
        return self._mean * self._queue.qsize() / self._size

    def stop(self, seconds: float) -> None:
        """Finish the queued work, waiting at most `seconds`; threads still running then are abandoned. Blocks."""
        for _ in self._threads:
            self._queue.put(None)
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0))

    def leave(self, work: Callable[[], Any]) -> None:
        """Do this work last, then end the threads. Does not wait."""
        self._queue.put(_Job(work))
        for _ in self._threads:
            self._queue.put(None)

    @property
    def is_stuck(self) -> bool:
        """Whether late work occupies every thread."""
        return len(self._late) >= self._size

    async def _until_done(self, job: _Job[Any], result: asyncio.Future[Any], seconds: float | None) -> None:
        """Wait until the job is done, given up or late."""
        slow = False
        while not result.done() and not job.future.done():
            now = time.monotonic()
            ran = 0.0 if job.started is None else now - job.started
            if seconds is not None and ran >= seconds:
                return
            if not slow and ran >= self._slow_seconds:
                slow = True
                self._slow()
            left = [bound - ran for bound in (seconds, None if slow else self._slow_seconds) if bound is not None]
            await asyncio.wait([result], timeout=min(left, default=None))

    def _serve(self) -> None:
        while job := self._queue.get():
            if job.future.set_running_or_notify_cancel():
                self._do(job)
            del job  # otherwise an idle thread keeps the last request in memory

    def _do(self, job: _Job[Any]) -> None:
        assert job.work
        job.started = time.monotonic()
        try:
            result = job.work()
        except BaseException as error:
            job.future.set_exception(error)
        else:
            job.future.set_result(result)
        job.work = None
        self._mean += RECENT * (min(time.monotonic() - job.started, MOST_SECONDS) - self._mean)
