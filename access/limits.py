"""Pure: how much a key or a partition may use, and what is left of it."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum


class Kind(StrEnum):
    """What is metered, and in which window: a minute for requests and tokens, a month for dollars."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    DOLLARS = "dollars"


@dataclass(frozen=True, slots=True)
class Limits:
    """None is no limit."""

    requests: int | None = None  # a minute
    tokens: int | None = None  # a minute, of requests and answers together
    parallel: int | None = None  # requests that run at the same time
    dollars: Decimal | None = None  # a calendar month, UTC

    @property
    def is_none(self) -> bool:
        return self == NO_LIMITS


NO_LIMITS = Limits()


def batch(limit: int) -> int:
    """How many of a minute's requests a process takes at once: few enough that little is left unused at its end."""
    return max(1, min(limit // 20, 100))
