"""The keys that a server process knows: read from the database when first used, and again every few seconds.

A key that was revoked is refused within verifying.FRESH_SECONDS. A key in steady use is read again beside its requests,
which do not wait. While the database does not answer, keys that were read go on working for OUTAGE_SECONDS; others are
refused with 503, since nothing is known of them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from django.db import DatabaseError, InterfaceError

from access.credentials import CredentialProblem
from access.verifying import (
    FRESH_SECONDS,
    OUTAGE_SECONDS,
    USE_SECONDS,
    KnownKey,
    keys_exist,
    keys_existed,
    look_up,
    note_use,
)
from proxy.database.reconnecting import error_name, on_database
from proxy.database.thread_pool import DeadlineExceeded, ThreadPool
from proxy.errors import Unavailable

T = TypeVar("T")

THREADS = 2
READ_SECONDS = 2.0  # that a request waits for its key to be read
PAUSE_SECONDS = 1.0  # after a failure, in which nothing is read
RENEW_SECONDS = FRESH_SECONDS / 2  # the age at which a key in use is read again
MOST_UNKNOWN = 10_000  # ids without a key that are remembered

log = logging.getLogger(__name__)


class Keyring:
    """Created once per server process."""

    def __init__(self) -> None:
        self._pool = ThreadPool("access", THREADS)
        self._keys: dict[str, tuple[float, KnownKey | None]] = {}
        self._reading: dict[str, asyncio.Task[KnownKey | None]] = {}
        self._used: dict[str, float] = {}
        self._exist = keys_existed()
        self._exist_read = float("-inf")
        self._paused_until = float("-inf")
        self._background: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Read whether there are keys, so that the first request finds the door as it should be."""
        with suppress(Unavailable):
            await self._read_whether_any()

    def stop(self, seconds: float) -> None:
        """End the threads, waiting at most `seconds` for each. Blocks."""
        self._pool.stop(seconds)

    async def key(self, public_id: str) -> KnownKey | None:
        """The key with this id, None if there is none or it is revoked. Raises Unavailable."""
        read, known = self._keys.get(public_id, (float("-inf"), None))
        age = time.monotonic() - read
        if age < RENEW_SECONDS:
            return known
        reading = self._read_key(public_id)
        if age < FRESH_SECONDS:
            return known
        try:
            return await asyncio.shield(reading)
        except Unavailable:
            if age < OUTAGE_SECONDS:
                return known
            raise

    def any_exist(self) -> bool:
        """Whether a key was ever made, as read a few seconds ago. Never waits."""
        if not self._exist and time.monotonic() - self._exist_read >= RENEW_SECONDS:
            self._exist_read = time.monotonic()
            self._start(self._read_whether_any())
        return self._exist

    def used(self, public_id: str) -> None:
        """Note that a key was used just now; written at most once a minute."""
        now = time.time()
        if now - self._used.get(public_id, 0.0) >= USE_SECONDS:
            self._used[public_id] = now
            self._start(self.ask(partial(note_use, [(public_id, now)])))

    def write(self, work: Callable[[], Any]) -> None:
        """Do work on the database in the background; it is dropped while the database does not answer."""
        self._start(self.ask(work))

    def _read_key(self, public_id: str) -> asyncio.Task[KnownKey | None]:
        """Read a key, once for all requests that want it at the moment."""
        if public_id not in self._reading:
            task = self._reading[public_id] = self._start(self._read(public_id))
            task.add_done_callback(lambda _: self._reading.pop(public_id, None))
        return self._reading[public_id]

    async def _read(self, public_id: str) -> KnownKey | None:
        known = await self.ask(partial(look_up, public_id))
        if known is None and len(self._keys) >= MOST_UNKNOWN:
            self._keys = {id_: entry for id_, entry in self._keys.items() if entry[1] is not None}
        self._keys[public_id] = (time.monotonic(), known)
        return known

    async def _read_whether_any(self) -> None:
        self._exist = await self.ask(keys_exist)

    async def ask(self, work: Callable[[], T]) -> T:
        """Do work on the database, on a thread. Raises Unavailable, at once for a second after a failure."""
        if time.monotonic() < self._paused_until:
            raise Unavailable("Access keys cannot be read now: try again in a second.")
        try:
            return await self._pool.run(partial(on_database, work), READ_SECONDS)
        except (DeadlineExceeded, DatabaseError, InterfaceError, CredentialProblem) as error:
            self._paused_until = time.monotonic() + PAUSE_SECONDS
            log.warning("access keys cannot be read (%s)", error_name(error))
            raise Unavailable("Access keys cannot be read now: try again in a second.") from None

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        if not task.cancelled():
            task.exception()  # it was logged, and those who wait get it; without this, asyncio would complain
