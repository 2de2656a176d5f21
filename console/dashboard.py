"""The dashboard: traffic, cost, failures, how often memory helped, and disk usage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Self

from django.conf import settings
from django.core.cache import cache
from django.db import connection
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.utils import timezone

from console import charts, storage
from console.charts import Series
from console.pages import page
from console.visible import allowed_partitions, may, visible
from console.welcome import first_steps
from conversations.models import EmbeddingModel, Exchange, Instance, Partition
from conversations.states import Ended, MemoryState


@dataclass(frozen=True, slots=True)
class Window:
    """A span of time: the length and number of its slots, and the format of their labels."""

    name: str
    slot: timedelta
    slots: int
    label: str


WINDOWS = {
    "day": Window("24 hours", timedelta(hours=1), 24, "%H:%M"),
    "week": Window("7 days", timedelta(hours=6), 28, "%a %H:%M"),
    "month": Window("30 days", timedelta(days=1), 30, "%-d %b"),
}
MOST_WAITING = 10_000
TOO_LONG = timedelta(minutes=10)
DEGRADED_PERCENT = 1  # of the last hour's exchanges: beyond this the dashboard warns
MOST_LOOKED_AT = 10_000  # of them

# Figures are cached for this long, so that several readers do not sum them up again.
KEPT_SECONDS = 30

OF_WINDOW = """
FROM conversations_exchange
WHERE created >= %(since)s AND (%(allowed)s::bigint[] IS NULL OR instance_id IN (
    SELECT id FROM conversations_instance WHERE partition_id = ANY(%(allowed)s)))
"""

FAILED = f"('{Ended.FAILED.value}', '{Ended.CUT.value}')"
FAILED_OR_INTERRUPTED = f"('{Ended.FAILED.value}', '{Ended.CUT.value}', '{Ended.INTERRUPTED.value}')"

SUMS = f"""
SELECT date_bin(%(slot)s, created, %(since)s), provider,
       count(*), coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0), coalesce(sum(cost), 0),
       count(*) FILTER (WHERE ended IN {FAILED_OR_INTERRUPTED}),
       count(*) FILTER (WHERE ended IN {FAILED}),
       count(*) FILTER (WHERE memories > 0),
       count(*) FILTER (WHERE memory = '{MemoryState.DEGRADED.value}'), max(created)
{OF_WINDOW} GROUP BY 1, 2
"""

# An index-only scan.
BUSIEST = f"""
SELECT i.partition_id, sum(busy.exchanges)::bigint FROM (
    SELECT instance_id, count(*) AS exchanges {OF_WINDOW} GROUP BY 1
) busy JOIN conversations_instance i ON i.id = busy.instance_id GROUP BY 1 ORDER BY 2 DESC LIMIT 8
"""  # noqa: S608

BACKLOG = """
SELECT count(*), min(embed_due) FROM (
    SELECT embed_due FROM conversations_message WHERE embed_due IS NOT NULL ORDER BY embed_due LIMIT %s
) waiting
"""


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
        for name in ("exchanges", "input_tokens", "output_tokens", "cost", "errors", "refused", "hits", "degraded"):
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
    """A window's exchanges by slot and by provider; the busiest partitions as (id, exchanges)."""

    slots: list[Sums]
    providers: dict[str, Sums] = field(default_factory=dict)
    busiest: list[tuple[int, int]] = field(default_factory=list)

    def total(self) -> Sums:
        """The sums of the whole window."""
        whole = Sums()
        for sums in self.slots:
            whole += sums
        return whole


def dashboard(request: HttpRequest) -> TemplateResponse:
    """The admin's first page. Figures that are not cached come with `?summed`, which the page's script requests."""
    if not may(request, "view_exchange"):
        return page(request, "dashboard", title="Dashboard", nothing=True)
    chosen = request.GET.get("window", "")
    name = chosen if chosen in WINDOWS else "week"
    window = WINDOWS[name]
    since = _since(window, timezone.now())
    allowed = allowed_partitions(request)
    figures = _figures(window, since, allowed, sum_up="summed" in request.GET)
    return page(
        request,
        "dashboard",
        title="Dashboard",
        windows=[(key, one.name, one is window) for key, one in WINDOWS.items()],
        window=window,
        **(_shown(request, figures, window, since) if figures else {"later": f"?window={name}&summed=1"}),
        recent=_recent(request),
        backlog=_backlog() if allowed is None else None,
        degraded=_degraded(request),
        reads=may(request, "view_message"),
        tables=storage.tables() if allowed is None else [],
        database=f"PostgreSQL {connection.pg_version // 10000}.{connection.pg_version % 10000}",  # type: ignore[attr-defined]
        embedder=settings.RESERVOIR_EMBEDDER,
        models=list(EmbeddingModel.objects.all()),
        empty=not Instance.objects.exists(),
        first_steps=first_steps(request),
    )


def _shown(request: HttpRequest, figures: Figures, window: Window, since: datetime) -> dict[str, Any]:
    total = figures.total()
    return {
        "total": total,
        "charts": _charts(
            figures.slots, [(since + i * window.slot).strftime(window.label) for i in range(window.slots)]
        ),
        "busiest": _busiest(request, figures),
        "providers": sorted(figures.providers.items(), key=lambda item: -item[1].exchanges),
        "failures": _failures(request, since) if total.errors else [],
    }


def _since(window: Window, now: datetime) -> datetime:
    """The beginning of the first slot. The last slot contains the current time."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    running = midnight + window.slot * ((now - midnight) // window.slot)
    return running - window.slot * (window.slots - 1)


def _figures(window: Window, since: datetime, allowed: list[int] | None, *, sum_up: bool) -> Figures | None:
    """Cached figures, or new ones if `sum_up`, which takes half a second for half a million exchanges; else None."""
    key = f"dashboard:{window.name}:{since:%Y%m%d%H}:{allowed}".replace(" ", "")
    kept = cache.get(key)
    if isinstance(kept, Figures):
        return kept
    if not sum_up:
        return None
    figures = Figures([Sums() for _ in range(window.slots)])
    values: dict[str, Any] = {"slot": window.slot, "since": since, "allowed": allowed}
    with connection.cursor() as cursor:
        cursor.execute(SUMS, values)
        for slot, provider, exchanges, given, made, cost, errors, refused, hits, degraded, last in cursor.fetchall():
            sums = Sums(exchanges, given, made, float(cost), errors, refused, hits, degraded, last)
            figures.slots[min((slot - since) // window.slot, window.slots - 1)] += sums
            by_provider = figures.providers.setdefault(provider or "unknown", Sums())
            by_provider += sums
        cursor.execute(BUSIEST, values)
        figures.busiest = cursor.fetchall()
    cache.set(key, figures, KEPT_SECONDS)
    return figures


def _charts(slots: Sequence[Sums], labels: Sequence[str]) -> list[tuple[str, Any]]:
    def values(name: str) -> list[float]:
        return [getattr(sums, name) for sums in slots]

    answered = [float(sums.exchanges - sums.errors) for sums in slots]
    missed = [float(sums.exchanges - sums.hits) for sums in slots]

    def columns(name: str, *series: Series, **more: Any) -> tuple[str, Any]:
        return name, charts.columns(series, labels, name=name, **more)

    return [
        columns(
            "Exchanges",
            Series("answered", "fill-brand", answered),
            Series("failed or cut", "fill-bad", values("errors")),
        ),
        columns(
            "Memory",
            Series("with memories", "fill-memory", values("hits")),
            Series("without", "fill-quiet", missed),
        ),
        columns(
            "Tokens",
            Series("in", "fill-brand", values("input_tokens")),
            Series("out", "fill-ok", values("output_tokens")),
        ),
        columns("Cost", Series("cost", "fill-warn", values("cost")), unit="$", whole=False),
    ]


def _busiest(request: HttpRequest, figures: Figures) -> list[tuple[Partition, int]]:
    partitions = visible(request, Partition.objects.all()).in_bulk([pk for pk, _ in figures.busiest])
    return [(partitions[pk], exchanges) for pk, exchanges in figures.busiest if pk in partitions]


def _recent(request: HttpRequest) -> list[Exchange]:
    rows = visible(request, Exchange.objects.select_related("instance__partition", "question"))
    return list(
        rows.only(
            "created", "model", "ended", "memories", "memory", "instance__name", "instance__partition__name",
            "question__content",
        )[:8]
    )  # fmt: skip


def _failures(request: HttpRequest, since: datetime) -> list[Exchange]:
    failed = visible(request, Exchange.objects.filter(created__gte=since, ended__in=("failed", "cut")))
    return list(failed.only("created", "model", "provider", "status", "error", "ended")[:5])


def _degraded(request: HttpRequest) -> dict[str, Any] | None:
    """The last hour's exchanges if memory was late or failed in more than a few of them, else None."""
    since = timezone.now() - timedelta(hours=1)
    latest = visible(request, Exchange.objects.filter(created__gte=since)).order_by("-created")
    states = list(latest.values_list("memory", flat=True)[:MOST_LOOKED_AT])
    bad = states.count(MemoryState.DEGRADED)
    if not bad or 100 * bad <= DEGRADED_PERCENT * len(states):
        return None
    return {"bad": bad, "exchanges": len(states), "more": len(states) == MOST_LOOKED_AT}


def _backlog() -> dict[str, Any]:
    with connection.cursor() as cursor:
        cursor.execute(BACKLOG, [MOST_WAITING])
        waiting, due = cursor.fetchone() or (0, None)
    late = due is not None and timezone.now() - due > TOO_LONG
    return {"waiting": waiting, "more": waiting == MOST_WAITING, "late": late}
