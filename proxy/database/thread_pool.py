"""Runs blocking work on a few threads, with a deadline, so that work that hangs delays nothing else."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class DeadlineExceeded(Exception):
    """The work missed its deadline, or every thread is occupied by work that did."""


class ThreadPool:
    """`size` threads that work off a queue. Each keeps its own database connection.

    The threads are daemons: one that hangs does not keep the process from exiting.
    """

    def __init__(self, name: str, size: int) -> None:
        self._queue: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._late: set[Future[Any]] = set()  # missed their deadline and are still running
        self._size = size
        self._threads = [
            threading.Thread(target=self._serve, name=f"{name}-{number}", daemon=True) for number in range(size)
        ]
        for thread in self._threads:
            thread.start()

    async def run(self, work: Callable[[], T], seconds: float | None) -> T:
        """Do the work on a thread and return its result, or raise its error.

        Raises DeadlineExceeded after `seconds` (None: never), and immediately when late work occupies every thread.
        Work that has started by then runs to its end; work still queued is dropped.
        """
        if len(self._late) >= self._size:
            raise DeadlineExceeded
        future: Future[T] = Future()
        self._queue.put((future, work))
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.shield(asyncio.wrap_future(future))
        except TimeoutError:
            if future.done() and not future.cancelled():
                return future.result()  # raised by the work itself, or finished at this moment
            raise DeadlineExceeded from None
        finally:
            if not future.cancel() and not future.done():
                self._late.add(future)
                future.add_done_callback(self._late.discard)

    def stop(self, seconds: float) -> None:
        """Finish the queued work, waiting at most `seconds`; threads still running then are abandoned. Blocks."""
        for _ in self._threads:
            self._queue.put(None)
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0))

    def leave(self, work: Callable[[], Any]) -> None:
        """Do this work last, then end the threads. Does not wait."""
        self._queue.put((Future(), work))
        for _ in self._threads:
            self._queue.put(None)

    def _serve(self) -> None:
        while item := self._queue.get():
            future, work = item
            if future.set_running_or_notify_cancel():
                try:
                    result = work()
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)
            del item, future, work  # otherwise an idle thread keeps the last request in memory
