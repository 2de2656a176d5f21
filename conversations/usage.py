"""What exchanges used, and what they cost: sums by day, partition, provider, model and access key."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC
from typing import Any

from django.db import connection
from django.db.models import Count, F, Q, QuerySet, Sum
from django.db.models.functions import TruncDate

from conversations.models import Exchange
from conversations.scopes import is_distributed
from conversations.spreadsheet import row as csv_row
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
MOST_NAMES = 500

# Goes from one pair of names in the index to the next: it reads no rows, however many there are of a pair.
NAMES = """
WITH RECURSIVE pair AS (
    (SELECT left(provider, 200) AS provider, left(model, 200) AS model FROM conversations_exchange
     ORDER BY 1, 2 LIMIT 1)
    UNION ALL
    SELECT next.* FROM pair CROSS JOIN LATERAL (
        SELECT left(e.provider, 200), left(e.model, 200) FROM conversations_exchange e
        WHERE (left(e.provider, 200), left(e.model, 200)) > (pair.provider, pair.model) ORDER BY 1, 2 LIMIT 1
    ) next
)
SELECT provider, model FROM pair LIMIT %s
"""
# Of all nodes, where the database is distributed: they read their rows.
NAMES_OF_NODES = (
    "SELECT DISTINCT left(provider, 200), left(model, 200) FROM conversations_exchange ORDER BY 1, 2 LIMIT %s"
)


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
    head = csv_row([*by, *SUMS])
    return head + "".join(csv_row([*(str(row[name]) for name in by), *(row[name] for name in SUMS)]) for row in rows)


def provider_models() -> list[tuple[str, str]]:
    """The pairs of a provider and a model that exchanges name, of all partitions, in order; at most MOST_NAMES."""
    with connection.cursor() as cursor:
        cursor.execute(NAMES_OF_NODES if is_distributed() else NAMES, [MOST_NAMES])
        return list(cursor.fetchall())
