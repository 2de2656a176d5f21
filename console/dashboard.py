"""The dashboard: traffic, cost, failures, how often memory helped, and disk usage."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import urlencode

from django.conf import settings
from django.db import connection
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone

from access.usage import NO_KEY, titles
from console import charts, storage
from console.access.who import may_see_keys
from console.alerts import alerts, backlog
from console.charts import Series
from console.figures import WINDOWS, Figures, Sums, Window, figures
from console.lists.exchange_filters import FAILURES, IMPORTED
from console.pages import page
from console.visible import allowed_partitions, may, visible
from console.welcome import first_steps
from conversations.models import EmbeddingModel, Exchange, Instance, Partition

MOST_SHOWN = 8  # rows of a table


class Row(NamedTuple):
    """One name of a table with its figures, and the address of its exchanges."""

    name: str
    sums: Sums
    link: str


class Table(NamedTuple):
    """What one kind of name cost: the costliest, how many more there are, and the address of all."""

    title: str
    rows: list[Row]
    more: int
    link: str


def dashboard(request: HttpRequest) -> TemplateResponse:
    """The admin's first page. Figures that are not cached come with `?summed`, which the page's script requests."""
    if not may(request, "view_exchange"):
        return page(request, "dashboard", title="Dashboard", nothing=True)
    chosen = request.GET.get("window", "")
    name = chosen if chosen in WINDOWS else "week"
    window, now, allowed = WINDOWS[name], timezone.now(), allowed_partitions(request)
    found = figures(name, now, allowed, sum_up="summed" in request.GET)
    waiting = backlog() if allowed is None else None
    return page(
        request,
        "dashboard",
        title="Dashboard",
        windows=[(key, one.name, one is window) for key, one in WINDOWS.items()],
        window=window,
        **(_shown(request, found, name, now) if found else {"later": f"?window={name}&summed=1"}),
        recent=_recent(request),
        backlog=waiting,
        alerts=alerts(request, waiting),
        reads=may(request, "view_message"),
        tables=storage.tables() if allowed is None else [],
        database=f"PostgreSQL {connection.pg_version // 10000}.{connection.pg_version % 10000}",  # type: ignore[attr-defined]
        embedder=settings.RESERVOIR_EMBEDDER,
        models=list(EmbeddingModel.objects.all()),
        empty=not Instance.objects.exists(),
        first_steps=first_steps(request),
    )


def _shown(request: HttpRequest, found: Figures, name: str, now: datetime) -> dict[str, Any]:
    window, total = WINDOWS[name], found.total()
    since, before = window.bounds(now)
    days = {"first": str(since.date()), "last": str((before - timedelta(microseconds=1)).date())}
    starts = [since + i * window.slot for i in range(window.slots)]
    return {
        "total": total,
        "charts": _charts(found.slots, starts, window),
        "costs": _costs(request, found, name, days),
        "providers": [
            (
                Row(provider, sums, _exchanges(provider=provider, **days)),
                _exchanges(provider=provider, ended__exact=FAILURES, **days),
            )
            for provider, sums in sorted(found.by["provider"].items(), key=lambda item: -item[1].exchanges)
            if provider
        ],
        "imported": found.by["provider"].get(""),
        "imported_link": _exchanges(provider=IMPORTED, **days),
        "failures": _failures(request, since, before) if total.errors else [],
    }


def _exchanges(**filters: str) -> str:
    """The address of the list of these exchanges."""
    return f"{reverse('admin:conversations_exchange_changelist')}?{urlencode(filters)}"


def _costs(request: HttpRequest, found: Figures, name: str, days: dict[str, str]) -> list[Table]:
    """What cost how much, by partition, model and access key."""
    partitions = visible(request, Partition.objects.all()).in_bulk([pk for pk, _ in found.top("partition", MOST_SHOWN)])
    keys = [key for key, _ in found.top("key", MOST_SHOWN)] if may_see_keys(request) else []
    named = titles(keys) if any(keys) else {}

    def table(group: str, title: str, rows: list[Row]) -> Table:
        more = max(0, len(found.by[group]) - MOST_SHOWN)
        return Table(title, rows, more, f"{reverse('admin:usage')}?{urlencode({'span': SPANS[name], 'by': group})}")

    tables = [
        table(
            "model",
            "Models",
            [
                Row(model or "no model", sums, _exchanges(model=model, **days) if model else "")
                for model, sums in found.top("model", MOST_SHOWN)
            ],
        ),
        table(
            "partition",
            "Partitions",
            [
                Row(partitions[pk].name, sums, _exchanges(partition=str(pk), **days))
                for pk, sums in found.top("partition", MOST_SHOWN)
                if pk in partitions
            ],
        ),
    ]
    if named:
        rows = [
            Row(named[key] if key else NO_KEY, sums, _exchanges(key=key, **days) if key else "")
            for key, sums in found.top("key", MOST_SHOWN)
        ]
        tables.append(table("key", "Access keys", rows))
    return tables


# The span of the usage page that is nearest to a window.
SPANS = {"day": "today", "yesterday": "yesterday", "week": "week", "month": "month"}


def _charts(slots: Sequence[Sums], starts: Sequence[datetime], window: Window) -> list[tuple[str, Any, list[Series]]]:
    def values(name: str) -> list[float]:
        return [getattr(sums, name) for sums in slots]

    labels = [start.strftime(window.label) for start in starts]
    ticks = [start.strftime(window.tick) for start in starts]
    answered = [float(sums.exchanges - sums.errors) for sums in slots]
    missed = [float(sums.exchanges - sums.hits) for sums in slots]

    def columns(name: str, *series: Series, **more: Any) -> tuple[str, Any, list[Series]]:
        return name, charts.columns(series, labels, ticks, name=name, **more), list(series)

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
        columns("Cost", Series("US dollars", "fill-warn", values("cost")), unit="$", whole=False),
    ]


def _recent(request: HttpRequest) -> list[Exchange]:
    rows = visible(request, Exchange.objects.select_related("instance__partition", "question"))
    return list(
        rows.only(
            "created", "model", "ended", "memories", "memory", "instance__name", "instance__partition__name",
            "question__content",
        )[:8]
    )  # fmt: skip


def _failures(request: HttpRequest, since: datetime, before: datetime) -> list[Exchange]:
    failed = visible(
        request, Exchange.objects.filter(created__gte=since, created__lt=before, ended__in=("failed", "cut"))
    )
    return list(failed.only("created", "model", "provider", "status", "error", "ended")[:5])
