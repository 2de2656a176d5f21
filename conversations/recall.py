"""Recall: scope + query -> ranked memories.

Two arms find candidates among the scope's messages: nearest by vector and matching by words. Each arm's scores
are divided by its best and summed with equal weight (fusing by rank is worse at the top: the first rank of a weak
arm outweighs everything). Packing into a budget and rendering are the proxy's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.conf import settings
from django.db import connection

from conversations.querysets import Scope

CANDIDATES = 50


@dataclass(frozen=True, slots=True)
class Candidate:
    """A stored message that answers a query, with each arm's rank (from 1) and score."""

    id: int
    role: str
    name: str
    created: datetime
    content: str
    digest: bytes
    score: float
    vector_rank: int | None
    vector_score: float
    word_rank: int | None
    word_score: float


def recall(
    *, scope: Scope, query: str, vector: Sequence[float] | None, model: str, limit: int = CANDIDATES
) -> list[Candidate]:
    """The scope's messages that answer the query, best first. `vector` is the query's under `model`."""
    with connection.cursor() as cursor:
        cursor.execute(
            SQL,
            {
                "partition": scope.partition,
                "instance": scope.instance,
                "language": settings.RESERVOIR_LANGUAGE,
                "query": query[:10_000],
                "vector": None if vector is None else "[" + ",".join(f"{x:.6g}" for x in vector) + "]",
                "model": model,
                "arm": 4 * limit,
                "limit": limit,
            },
        )
        return [Candidate(*[*row[:5], bytes(row[5]), *row[6:]]) for row in cursor.fetchall()]


# The OR of the query's own lexemes, so that its text is never parsed as query syntax.
SQL = """
WITH scope AS MATERIALIZED (
    SELECT i.id FROM conversations_instance i JOIN conversations_partition p ON p.id = i.partition_id
    WHERE p.name = %(partition)s AND i.name = %(instance)s
), wanted AS MATERIALIZED (
    SELECT string_agg(quote_literal(lexeme), ' | ')::tsquery AS words
    FROM unnest(to_tsvector(%(language)s::regconfig, %(query)s))
), by_vector AS (
    SELECT e.message_id, max(1 - (e.vector <=> %(vector)s::halfvec)) AS score
    FROM conversations_embedding e
    WHERE %(vector)s IS NOT NULL AND e.instance_id = (SELECT id FROM scope)
      AND e.model_id = (SELECT id FROM conversations_embeddingmodel WHERE name = %(model)s)
    GROUP BY e.message_id ORDER BY score DESC LIMIT %(arm)s
), by_words AS (
    SELECT m.id AS message_id, ts_rank(m.lexemes, words, 1) AS score
    FROM conversations_message m, wanted
    WHERE m.instance_id = (SELECT id FROM scope) AND m.lexemes @@ words
    ORDER BY score DESC LIMIT %(arm)s
), ranked_vector AS (
    SELECT message_id, rank() OVER (ORDER BY score DESC) AS rank, greatest(score, 0) AS score FROM by_vector
), ranked_words AS (
    SELECT message_id, rank() OVER (ORDER BY score DESC) AS rank, score FROM by_words
), fused AS (
    SELECT message_id,
           coalesce(v.score / nullif(max(v.score) OVER (), 0), 0) / 2
           + coalesce(w.score / nullif(max(w.score) OVER (), 0), 0) / 2 AS score,
           v.rank AS vector_rank, coalesce(v.score, 0) AS vector_score,
           w.rank AS word_rank, coalesce(w.score, 0) AS word_score
    FROM ranked_vector v FULL JOIN ranked_words w USING (message_id)
)
SELECT m.id, m.role, m.name, m.created, m.content, m.digest,
       f.score, f.vector_rank, f.vector_score, f.word_rank, f.word_score
FROM fused f JOIN conversations_message m ON m.id = f.message_id
WHERE m.role IN ('user', 'assistant') AND NOT m.abandoned AND m.content <> ''
ORDER BY f.score DESC, m.created DESC, m.id DESC
LIMIT %(limit)s
"""
