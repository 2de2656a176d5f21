"""Vector indexes of large scopes: which scopes have earned one, how to make and drop them, and how much they miss.

nearest.py defines an index, and recall/retrieval.py has the query that uses it. Each index slows every write to the
table and the planning of every query a little, so only the largest scopes have one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from django.db import connection, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from conversations import nearest
from conversations.direct import direct_connection, is_pooled
from conversations.locks import held
from conversations.models import EmbeddingModel
from conversations.querysets import Scope
from conversations.recall.retrieval import READ_WHOLE

EARNED = READ_WHOLE
"""A scope with more messages than this is no longer read whole, and earns an index."""

MOST = 100
"""The most indexes of one model. A query locks all indexes of a table, and the lock table holds some thousands."""

ONE_AT_A_TIME = 0x5265_6978  # the advisory lock of the process that makes one
MEMORY = "256MB"  # for building: a scope of 100,000 messages fits


@dataclass(frozen=True, slots=True)
class LargeScope:
    """A scope that has earned an index or has one. `valid`: None without an index, False if it is half built."""

    instance_id: int
    scope: Scope
    messages: int
    valid: bool | None
    bytes: int

    @property
    def earned(self) -> bool:
        return self.messages > EARNED


@dataclass(frozen=True, slots=True)
class Measured:
    """The share of the true nearest that an index finds (0 to 1), and the median times of both searches in ms."""

    queries: int
    recall: float
    index_ms: float
    exact_ms: float


def large_scopes(model: EmbeddingModel) -> list[LargeScope]:
    """Scopes that have earned an index for the model or have one, largest first."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT i.id, p.name, i.name, i.message_count, x.indisvalid, coalesce(pg_relation_size(x.indexrelid), 0)
            FROM conversations_instance i JOIN conversations_partition p ON p.id = i.partition_id
            LEFT JOIN pg_index x ON x.indexrelid = to_regclass(format('embedding_near_%%s_%%s', i.id, %(model)s::int8))
            WHERE i.message_count > %(earned)s OR x.indexrelid IS NOT NULL
            ORDER BY i.message_count DESC, i.id
            """,
            {"model": model.pk, "earned": EARNED},
        )
        return [LargeScope(row[0], Scope(row[1], row[2]), *row[3:]) for row in cursor.fetchall()]


def without_index(model: EmbeddingModel) -> list[LargeScope]:
    """Scopes that have earned an index but lack a valid one, largest first, among the MOST largest."""
    return [scope for scope in large_scopes(model)[:MOST] if scope.earned and not scope.valid]


def create(instance_id: int, model: EmbeddingModel) -> bool:
    """Create the scope's index, replacing a half-built one. Takes minutes, and blocks no writers.

    Returns False at once if another process is creating an index.
    """
    with held(ONE_AT_A_TIME) as alone:
        if not alone:
            return False
        with direct_connection() as direct, direct.cursor() as cursor:
            cursor.execute(nearest.drop_index_sql(instance_id, model.pk))
            with _memory(direct, cursor):
                cursor.execute(nearest.create_index_sql(instance_id, nearest.Model(model.pk, model.dimensions)))
    return True


def create_next() -> bool:
    """Create one index that a scope has earned, for the model in use. Returns whether one was created."""
    model = EmbeddingModel.objects.filter(active=True).first()
    waiting = without_index(model) if model else []
    return bool(model and waiting and create(waiting[0].instance_id, model))


def drop(instance_id: int, model_id: int) -> None:
    """Drop the scope's index, if it exists."""
    with connection.cursor() as cursor:
        cursor.execute(nearest.drop_index_sql(instance_id, model_id))


def drop_of_model(model_id: int) -> None:
    """Drop all indexes of a model, including those of scopes that no longer exist."""
    _drop_named(f"^embedding_near_[0-9]+_{model_id}$")


def drop_useless() -> int:
    """Drop the indexes of scopes and models that no longer exist. Returns their number."""
    return _drop_named(
        "^embedding_near_[0-9]+_[0-9]+$",
        """ AND NOT (EXISTS (SELECT FROM conversations_instance i WHERE i.id = split_part(relname, '_', 3)::int8)
            AND EXISTS (SELECT FROM conversations_embeddingmodel m WHERE m.id = split_part(relname, '_', 4)::int8))""",
    )


def measure(instance_id: int, model: EmbeddingModel, *, queries: int = 100, nearest_count: int = 10) -> Measured:
    """Search for the vectors nearest to messages of the scope, by its index, as recall does, and exactly.

    The index must exist.
    """
    form = nearest.searchable(instance_id, model.name) or nearest.Model(model.pk, model.dimensions)
    ways = {"index": form.search_settings, "exact": "SET LOCAL enable_indexscan = off"}
    near = f"""
        SELECT id FROM conversations_embedding WHERE instance_id = %(instance)s AND model_id = %(model)s
        ORDER BY {form.expression} <=> %(vector)s::{form.type} LIMIT %(limit)s
    """  # noqa: S608, of numbers alone
    parameters = {"instance": instance_id, "model": model.pk, "limit": nearest_count}
    found = wanted = 0
    times: dict[str, list[float]] = {"index": [], "exact": []}
    with connection.cursor() as cursor:
        cursor.execute(_SPREAD, {"instance": instance_id, "model": model.pk, "queries": queries})
        for (vector,) in cursor.fetchall():
            answers: dict[str, set[int]] = {}
            for way, search_settings in ways.items():
                with transaction.atomic():
                    cursor.execute(search_settings)
                    started = time.perf_counter()
                    cursor.execute(near, parameters | {"vector": vector})
                    answers[way] = {row[0] for row in cursor.fetchall()}
                    times[way].append(1000 * (time.perf_counter() - started))
            found += len(answers["index"] & answers["exact"])
            wanted += len(answers["exact"])
    return Measured(
        queries=len(times["exact"]),
        recall=found / wanted if wanted else 1.0,
        index_ms=_median(times["index"]),
        exact_ms=_median(times["exact"]),
    )


# Vectors spread evenly over the scope's time; every measurement takes the same ones.
_SPREAD = """
SELECT vector::text FROM (
    SELECT vector, row_number() OVER (ORDER BY id) AS number, count(*) OVER () AS all_of_them
    FROM conversations_embedding WHERE instance_id = %(instance)s AND model_id = %(model)s
) v WHERE number %% greatest(all_of_them / %(queries)s, 1) = 0 LIMIT %(queries)s
"""


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2] if values else 0.0


def _drop_named(pattern: str, more: str = "") -> int:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT relname FROM pg_class WHERE relkind = 'i' AND relname ~ %s{more}", [pattern])  # noqa: S608
        names = [row[0] for row in cursor.fetchall()]
        for name in names:
            cursor.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {connection.ops.quote_name(name)}")
    return len(names)


@contextmanager
def _memory(direct: BaseDatabaseWrapper, cursor: CursorWrapper) -> Iterator[None]:
    """More memory for one build. Behind a pooler the setting would remain with another client's connection."""
    if is_pooled(direct):
        yield
        return
    cursor.execute(f"SET maintenance_work_mem = '{MEMORY}'")
    try:
        yield
    finally:
        cursor.execute("RESET maintenance_work_mem")
