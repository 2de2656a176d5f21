"""Whether PostgreSQL is to be asked at all: once it has failed, no request is the one that finds out again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from django.db import connection
from psycopg import AsyncConnection

PROBE_SECONDS = 0.25  # between two looks while it is away
PATIENCE = 1.0  # seconds that a look may take

log = logging.getLogger(__name__)


async def answers() -> bool:
    """Whether the database lets us in and answers, within PATIENCE. Holds no thread, and no connection after."""
    wanted = ("host", "port", "user", "password", "dbname", "sslmode", "sslrootcert", "sslcert", "sslkey", "service")
    given = {key: value for key, value in connection.get_connection_params().items() if key in wanted}
    try:
        async with asyncio.timeout(PATIENCE):
            async with await AsyncConnection.connect(**given, autocommit=True) as looking:
                await looking.execute("SELECT 1")
        return True
    except Exception:  # whatever it says, it is not ready to be asked
        return False


class CircuitBreaker:
    """Closed while the database answers. Opened by `trip`; closed again only by a look that succeeds."""

    def __init__(self, probe: Callable[[], Awaitable[bool]] = answers) -> None:
        self.is_open = False
        self._probe = probe
        self._since = 0.0
        self._suspected = asyncio.Event()

    def trip(self) -> None:
        """The database is away."""
        if not self.is_open:
            self.is_open, self._since = True, time.monotonic()
            log.error("the database does not answer: requests go on without memory, exchanges go to the spool")
        self._suspected.set()

    def suspect(self) -> None:
        """It may be away: have a look."""
        self._suspected.set()

    async def watch(self, seconds: float) -> None:
        """Return after so long, or sooner when there was reason to look; the breaker is then as the look says."""
        try:
            async with asyncio.timeout(PROBE_SECONDS if self.is_open else seconds):
                await self._suspected.wait()
        except TimeoutError:
            if not self.is_open:
                return
        self._suspected.clear()
        if await self._probe():
            if self.is_open:
                self.is_open = False
                log.warning("the database answers again, after %.1f s", time.monotonic() - self._since)
        elif self.is_open:
            await asyncio.sleep(PROBE_SECONDS)  # tripped again and again, one look is still enough
        else:
            self.trip()
