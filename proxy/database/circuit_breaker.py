"""Decides whether PostgreSQL is used at all: after one failure, no request has to time out to find out again.

Slow is not unreachable: a probe that fails opens the breaker only if the database has done nothing since it began.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from django.db import connection
from psycopg import AsyncConnection

PROBE_SECONDS = 0.25  # between two probes during an outage
PROBE_TIMEOUT = 1.0  # seconds

log = logging.getLogger(__name__)


async def answers() -> bool:
    """Whether the database accepts a connection, answers and takes writes within PROBE_TIMEOUT.

    Connects as requests do, with every parameter of the URL: with `target_session_attrs`, another of its hosts may be
    the right one now. Occupies no thread, and leaves no connection open.
    """
    given = connection.get_connection_params()
    for of_django in ("context", "cursor_factory"):
        given.pop(of_django, None)
    try:
        async with asyncio.timeout(PROBE_TIMEOUT):
            async with await AsyncConnection.connect(**given, autocommit=True) as probing:
                row = await (await probing.execute("SHOW transaction_read_only")).fetchone()
        return row == ("off",)
    except Exception:  # any error means that the database is not ready
        return False


class CircuitBreaker:
    """Closed while the database answers. `trip` opens it; only a successful probe closes it again.

    `opened` is called when it opens.
    """

    def __init__(
        self, probe: Callable[[], Awaitable[bool]] = answers, *, opened: Callable[[], None] = lambda: None
    ) -> None:
        self.is_open = False
        self._probe = probe
        self._opened = opened
        self._since = 0.0
        self._worked = float("-inf")
        self._suspected = asyncio.Event()

    def trip(self) -> None:
        """Record that the database is unreachable."""
        if not self.is_open:
            self.is_open, self._since = True, time.monotonic()
            log.error("the database does not answer: requests go on without memory, exchanges go to the spool")
            self._opened()
        self._suspected.set()

    def confirm(self) -> None:
        """Record that the database has just done something."""
        self._worked = time.monotonic()

    def suspect(self) -> None:
        """Have the database probed soon: it may be unreachable."""
        self._suspected.set()

    async def watch(self, seconds: float) -> None:
        """Wait for `seconds`, or less during an outage or on suspicion; then probe and set the breaker accordingly.

        A closed breaker without a suspicion is not probed.
        """
        try:
            async with asyncio.timeout(PROBE_SECONDS if self.is_open else seconds):
                await self._suspected.wait()
        except TimeoutError:
            if not self.is_open:
                return
        self._suspected.clear()
        begun = time.monotonic()
        if await self._probe():
            if self.is_open:
                self.is_open = False
                log.warning("the database answers again, after %.1f s", time.monotonic() - self._since)
        elif self.is_open:
            await asyncio.sleep(PROBE_SECONDS)  # many requests may trip it meanwhile: one probe serves them all
        elif self._worked < begun:
            self.trip()
