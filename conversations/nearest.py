"""Nearest vectors in SQL: the vector index of a large scope (its name, its statements), and how a vector is written.

Exact search reads every vector of a scope, which takes a few microseconds each. A scope that is too large for that gets
its own HNSW index for the model in use. Scopes do not share an index, because one over all vectors would find too few
of a small scope's. Most scopes have no index, because many indexes on one table exhaust the lock table.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from django.db import connection

ITERATIVE = "SET LOCAL hnsw.iterative_scan = relaxed_order"  # only pgvector 0.8 or newer accepts it

SEARCH = "SET LOCAL hnsw.ef_search = 800"
"""Settings for a search by index. In a test with 100,000 vectors, where a hundred others resembled the one that a
question was about, the index found it for 75 % of questions with a list of 100, 89 % with 200, 99 % with 400 (10 ms)
and 100 % with 800 (22 ms)."""


MOST_DIMENSIONS = 4_000  # the most that pgvector's HNSW index takes of a halfvec


@dataclass(frozen=True, slots=True)
class Model:
    """The part of an embedding model's row that its indexes depend on, and whether pgvector scans them iteratively."""

    id: int
    dimensions: int
    iterative: bool = True

    @property
    def type(self) -> str:
        return f"halfvec({self.dimensions:d})"

    @property
    def expression(self) -> str:
        """The indexed expression. An index needs a fixed dimension, which the column does not have."""
        return f"(vector::{self.type})"

    @property
    def search_settings(self) -> str:
        """Statements that set, for the transaction, what a search by index needs."""
        return f"{SEARCH}; {ITERATIVE}" if self.iterative else SEARCH


def index_name(instance_id: int, model_id: int) -> str:
    return f"embedding_near_{instance_id:d}_{model_id:d}"


def create_index_sql(instance_id: int, model: Model) -> str:
    """To be run outside a transaction. It blocks no writers; interrupted, it leaves an invalid index behind."""
    return (
        f"CREATE INDEX CONCURRENTLY {index_name(instance_id, model.id)} ON conversations_embedding "
        f"USING hnsw ({model.expression} halfvec_cosine_ops) "
        f"WHERE instance_id = {instance_id:d} AND model_id = {model.id:d}"
    )


def drop_index_sql(instance_id: int, model_id: int) -> str:
    return f"DROP INDEX CONCURRENTLY IF EXISTS {index_name(instance_id, model_id)}"


def vector_literal(vector: Iterable[float]) -> str:
    """A vector as SQL's halfvec reads it. Six digits are more than two bytes hold."""
    return f"[{','.join(f'{value:.6g}' for value in vector)}]"


def searchable(instance_id: int, model: str) -> Model | None:
    """The model of this name if the instance has a valid index for it, else None."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT model.id, model.dimensions, (
                SELECT string_to_array(substring(extversion from '^[0-9]+[.][0-9]+'), '.')::int[] >= '{0,8}'
                FROM pg_extension WHERE extname = 'vector'
            ) FROM conversations_embeddingmodel model
            JOIN pg_index ON indexrelid = to_regclass(format('embedding_near_%%s_%%s', %(instance)s::int8, model.id))
            WHERE model.name = %(model)s AND indisvalid
            """,
            {"instance": instance_id, "model": model},
        )
        row = cursor.fetchone()
        return Model(*row) if row else None
