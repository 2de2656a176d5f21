"""What a window's exchanges add up to: by slot of time, partition, provider, model and access key. One pass, cached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any, Self

from django.core.cache import cache
from django.db import connection

from conversations.states import Ended, MemoryState

DAY = timedelta(days=1)
FAILED = f"('{Ended.FAILED.value}', '{Ended.CUT.value}')"
FAILED_OR_INTERRUPTED = f"('{Ended.FAILED.value}', '{Ended.CUT.value}', '{Ended.INTERRUPTED.value}')"

# What is summed up by, and the bits of grouping() that say so: a 0 for the column that a row is grouped by.
GROUPS = {0b01111: "slot", 0b10111: "provider", 0b11011: "model", 0b11101: "key", 0b11110: "partition"}

SUMS = f"""
SELECT grouping(slot, provider, model, key, partition), slot, provider, model, key, partition,
       count(*), coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0), coalesce(sum(cost), 0),
       count(*) FILTER (WHERE ended IN {FAILED_OR_INTERRUPTED}),
       count(*) FILTER (WHERE ended IN {FAILED}),
       count(*) FILTER (WHERE memories > 0),
       count(*) FILTER (WHERE memory = '{MemoryState.DEGRADED.value}'), max(created)
FROM (
    SELECT date_bin(%(slot)s, e.created, %(since)s) AS slot, e.provider, e.model, e.key_id AS key,
           i.partition_id AS partition, e.created, e.ended, e.input_tokens,
           e.output_tokens, e.cost, e.memory, e.memories
    FROM conversations_exchange e JOIN conversations_instance i ON i.id = e.instance_id
    WHERE e.created >= %(since)s AND e.created < %(before)s
      AND (%(allowed)s::bigint[] IS NULL OR i.partition_id = ANY(%(allowed)s))
) used GROUP BY GROUPING SETS ((slot), (provider), (model), (key), (partition))
"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class Window:
    """A span of time: the length and number of its slots, the formats of their labels and of the axis, and for how many
    seconds its figures are kept, so that several readers do not sum them up again.
    """

    name: str
    slot: timedelta
    slots: int
    label: str
    tick: str
    keep: int
    ended: bool = False  # with the day before this one

    def bounds(self, now: datetime) -> tuple[datetime, datetime]:
        """From when to when, in UTC. The last slot contains the current time, unless the window has ended."""
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        running = midnight + self.slot * ((now - midnight) // self.slot)
        before = midnight if self.ended else running + self.slot
        return before - self.slots * self.slot, before


WINDOWS = {
    "day": Window("24 hours", timedelta(hours=1), 24, "%-d %b %H:%M", "%H:%M", keep=30),
    "yesterday": Window("Yesterday", timedelta(hours=1), 24, "%-d %b %H:%M", "%H:%M", keep=300, ended=True),
    "week": Window("7 days", timedelta(hours=6), 28, "%-d %b %H:%M", "%-d %b", keep=60),
    "month": Window("30 days", DAY, 30, "%-d %b", "%-d %b", keep=300),
}


@dataclass(slots=True)
class Sums:
    """Figures of some exchanges."""

    exchanges: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0
    errors: int = 0
    refused: int = 0  # errors of the provider: it failed, or cut its answer short
    hits: int = 0
    degraded: int = 0
    last: datetime | None = None

    def __iadd__(self, other: Sums) -> Self:
        for name in (one.name for one in fields(self) if one.name != "last"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.last = max(filter(None, (self.last, other.last)), default=None)
        return self

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    @property
    def error_share(self) -> float:
        return 100 * self.errors / self.exchanges if self.exchanges else 0

    @property
    def refused_share(self) -> float:
        return 100 * self.refused / self.exchanges if self.exchanges else 0

    @property
    def hit_share(self) -> float:
        return 100 * self.hits / self.exchanges if self.exchanges else 0


@dataclass(slots=True)
class Figures:
    """A window's exchanges by slot; and by provider, model, key (their names) and partition (its id)."""

    slots: list[Sums]
    by: dict[str, dict[Any, Sums]] = field(default_factory=dict)

    def total(self) -> Sums:
        """The sums of the whole window."""
        whole = Sums()
        for sums in self.slots:
            whole += sums
        return whole

    def top(self, group: str, most: int) -> list[tuple[Any, Sums]]:
        """The costliest of a group, then the busiest."""
        found = self.by.get(group, {}).items()
        order: Callable[[tuple[Any, Sums]], Any] = lambda item: (-item[1].cost, -item[1].exchanges, str(item[0]))  # noqa: E731
        return sorted(found, key=order)[:most]


def figures(name: str, now: datetime, allowed: list[int] | None, *, sum_up: bool) -> Figures | None:
    """The figures of the window of this name: cached ones, or new ones if `sum_up`; else None.

    To sum up reads the rows of the window's exchanges.
    """
    window = WINDOWS[name]
    since, before = window.bounds(now)
    key = f"dashboard:{name}:{since:%Y%m%d%H}:{allowed}".replace(" ", "")
    found = cache.get(key)
    if isinstance(found, Figures):
        return found
    if not sum_up:
        return None
    found = Figures([Sums() for _ in range(window.slots)], {group: {} for group in GROUPS.values()})
    asked: dict[str, Any] = {"slot": window.slot, "since": since, "before": before, "allowed": allowed}
    with connection.cursor() as cursor:
        cursor.execute(SUMS, asked)
        for grouping, *keys, exchanges, given, made, cost, errors, refused, hits, degraded, last in cursor.fetchall():
            sums = Sums(exchanges, given, made, float(cost), errors, refused, hits, degraded, last)
            group = GROUPS[grouping]
            each = keys[list(GROUPS.values()).index(group)]
            if group == "slot":
                found.slots[min((each - since) // window.slot, window.slots - 1)] += sums
            else:
                found.by[group][each] = sums
    cache.set(key, found, window.keep)
    return found
