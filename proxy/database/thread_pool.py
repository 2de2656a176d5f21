"""Blocking work on a few threads, with a deadline, so that what hangs delays nobody else."""

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
    """The work took longer than it may, or every thread is held by work that did."""


class ThreadPool:
    """`size` threads that do work in turn. They keep what is theirs, such as a database connection.

    They are daemons: one that hangs for good does not keep the process from ending.
    """

    def __init__(self, name: str, size: int) -> None:
        self._queue: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._late: set[Future[Any]] = set()  # past their deadline, and still running
        self._size = size
        self._threads = [
            threading.Thread(target=self._serve, name=f"{name}-{number}", daemon=True) for number in range(size)
        ]
        for thread in self._threads:
            thread.start()

    async def run(self, work: Callable[[], T], seconds: float | None) -> T:
        """Raises DeadlineExceeded after `seconds` (None: never), and at once when late work holds every thread.

        Work that has begun is then finished nevertheless; work that has not is dropped.
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
                return future.result()  # the work's own, or done this very moment
            raise DeadlineExceeded from None
        finally:
            if not future.cancel() and not future.done():
                self._late.add(future)
                future.add_done_callback(self._late.discard)

    @property
    def stuck(self) -> int:
        """How many threads are held by work that is late."""
        return len(self._late)

    def stop(self, seconds: float) -> None:
        """Finish what is queued, wait so long for it, and leave behind what hangs. Blocks."""
        for _ in self._threads:
            self._queue.put(None)
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0))

    def leave(self, work: Callable[[], Any]) -> None:
        """Do this last, and end. Does not wait."""
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
            del item, future, work  # or the thread holds a request until the next one comes
