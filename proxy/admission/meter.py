"""What one server process knows of what a key or a partition uses; moments are those of time.monotonic()."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from math import ceil
from typing import NamedTuple

from access.limits import NO_LIMITS, Kind, Limits
from proxy.errors import RateLimited
from proxy.upstream import Headers


@dataclass(slots=True)
class Meter:
    """What is used of the limits of one subject."""

    left: int = 0  # requests taken and not used, until `minute_ends`
    not_taken: int = 0  # requests of the minute that no process had taken when this one last took some
    used_up: bool = False  # the minute has no more requests for anybody
    minute_ends: float = 0.0
    tokens: int = 0  # used in this minute by all processes, as last read
    tokens_end: float = 0.0
    dollars: Decimal = Decimal(0)
    month_ends: float = 0.0
    new_tokens: int = 0  # used here, not told to the others yet
    new_dollars: Decimal = Decimal(0)
    busy: int = 0  # requests that run here
    leased: int = 0
    limits: Limits = NO_LIMITS
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)  # who asks the database, while others wait
    seen: float = field(default_factory=time.monotonic)

    def begin(self) -> None:
        self.busy += 1

    def end(self) -> None:
        self.busy -= 1

    def tokens_used(self, now: float) -> int:
        """In the present minute, as far as this process knows."""
        return self.new_tokens + (self.tokens if now < self.tokens_end else 0)

    def check_spending(self) -> None:
        """Raises RateLimited when the minute's tokens or the month's dollars are used up."""
        now, limits = time.monotonic(), self.limits
        if limits.tokens is not None and self.tokens_used(now) >= limits.tokens:
            sentence = f"The limit of {limits.tokens} tokens a minute is reached."
            raise RateLimited(sentence, Kind.TOKENS, seconds=max(1.0, self.tokens_end - now))
        dollars = self.new_dollars + (self.dollars if now < self.month_ends else 0)
        if limits.dollars is not None and dollars >= limits.dollars:
            raise RateLimited(
                f"The budget of {limits.dollars} dollars a month is used up.",
                Kind.DOLLARS,
                seconds=max(1.0, self.month_ends - now),
                code="insufficient_quota",
            )


class _Room(NamedTuple):
    """What is left of a limit, and the seconds until all of it is there again."""

    remaining: int
    limit: int
    seconds: float


def headers(meters: Iterable[Meter]) -> Headers:
    """`x-ratelimit-limit-requests`, `-remaining-` and `-reset-`, and the same of tokens, as OpenAI's API has them.

    Of several limits, the one that leaves least. Other processes may have used a part of what remains.
    """
    told: Headers = []
    rooms = [_rooms(meter) for meter in meters]
    for kind in (Kind.REQUESTS, Kind.TOKENS):
        if tightest := min((room[kind] for room in rooms if kind in room), default=None):
            figures = {
                "limit": str(tightest.limit),
                "remaining": str(tightest.remaining),
                "reset": f"{max(1, ceil(tightest.seconds))}s",
            }
            told += [(f"x-ratelimit-{name}-{kind}".encode(), value.encode()) for name, value in figures.items()]
    return told


def _rooms(meter: Meter) -> dict[Kind, _Room]:
    now, limits = time.monotonic(), meter.limits
    rooms = {}
    if limits.requests is not None:
        rooms[Kind.REQUESTS] = _Room(meter.left + meter.not_taken, limits.requests, _until(meter.minute_ends, now))
    if limits.tokens is not None:
        left = max(0, limits.tokens - meter.tokens_used(now))
        rooms[Kind.TOKENS] = _Room(left, limits.tokens, _until(meter.tokens_end, now))
    return rooms


def _until(end: float, now: float) -> float:
    """The seconds until a minute ends; by the clock of this machine where the database has not said it yet."""
    return end - now if end > now else 60 - time.time() % 60
