"""What exchanges used, and what they cost: sums by day, partition, provider, model and access key."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import UTC
from typing import Any

from django.db.models import Count, F, Q, QuerySet, Sum
from django.db.models.functions import TruncDate

from conversations.models import Exchange
from conversations.states import Ended, MemoryState
from conversations.turns import Json

DIMENSIONS: dict[str, Any] = {
    "day": TruncDate("created", tzinfo=UTC),
    "partition": F("instance__partition__name"),
    "provider": F("provider"),
    "model": F("model"),
    "key": F("key_id"),  # its public id; empty without one
}
SUMS: dict[str, Any] = {
    "exchanges": Count("id"),
    "failed": Count("id", filter=Q(ended__in=(Ended.FAILED, Ended.CUT))),
    "degraded": Count("id", filter=Q(memory=MemoryState.DEGRADED)),
    "input": Sum("input_tokens", default=0),
    "output": Sum("output_tokens", default=0),
    "dollars": Sum("cost", default=0),
}
MOST_ROWS = 10_000
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run a text that begins so


def usage(exchanges: QuerySet[Exchange], by: Sequence[str]) -> list[Json]:
    """A row for each combination of these DIMENSIONS with its SUMS, costliest first; at most MOST_ROWS."""
    named = {f"of_{name}": DIMENSIONS[name] for name in by}
    rows = exchanges.order_by().annotate(**named).values(*named).annotate(**SUMS)
    found = rows.order_by("-dollars", "-exchanges", *named)[:MOST_ROWS]
    return [{name: row[f"of_{name}"] for name in by} | {name: row[name] for name in SUMS} for row in found]


def total(rows: Iterable[Json]) -> Json:
    """The sums of all rows."""
    rows = list(rows)
    return {name: sum(row[name] for row in rows) for name in SUMS}


def as_csv(rows: Iterable[Json], by: Sequence[str]) -> str:
    """The rows with a head, as RFC 4180 has it. Names are harmless to spreadsheets."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*by, *SUMS])
    for row in rows:
        writer.writerow([*(_cell(row[name]) for name in by), *(row[name] for name in SUMS)])
    return text.getvalue()


def _cell(value: Any) -> str:
    text = str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
