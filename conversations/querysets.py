"""Reads in domain terms. Every read of a scope's messages begins with in_scope(), the one place that says what a scope
may see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar

from django.db import connection, models
from django.db.models import Min, Q
from django.db.models.fields.json import KeyTransform
from django.db.models.functions import Cast, Left
from pgvector.django import CosineDistance

from conversations import scopes
from conversations.capture import Known
from conversations.changed import Node, Said
from conversations.lexemes import search_query, spoken
from conversations.payloads import CONTENT_MARKS, OPENINGS, with_content
from conversations.reach import Pattern, Reach
from conversations.turns import storable

if TYPE_CHECKING:
    from conversations.models import Embedding, Exchange, Instance, Ledger, Message, Partition  # noqa: F401, named in the bases below


M = TypeVar("M", bound=models.Model)

LONGEST_SEARCH = 1000  # characters of a search; the rest is cut off

# Figures that lists of exchanges sort by. The sum of two integers may be too large for one.
TOTAL_TOKENS = Cast("input_tokens", models.BigIntegerField()) + Cast("output_tokens", models.BigIntegerField())
TOTAL_MS = KeyTransform("total", "timings")
HAS_TOKENS = Q(input_tokens__isnull=False, output_tokens__isnull=False)
HAS_MS = Q(timings__has_key="total")

# Names as their index has them: a client may send a name of any length, and an index row has a limit.
NAME_INDEXED = 200  # characters
PROVIDER_NAME = Left("provider", NAME_INDEXED)
MODEL_NAME = Left("model", NAME_INDEXED)


def octets(column: str) -> models.Func:
    """An expression for a text column's length in bytes."""
    return models.Func(models.F(column), function="octet_length", output_field=models.IntegerField())


# The bytes of a message's payload. Where a mark stands for the content, it is as long as that and
# two quotes: escapes count as what they stand for.
PAYLOAD_SIZE = (
    octets("payload")
    + models.Case(models.When(payload__regex=f"[{CONTENT_MARKS}]", then=octets("content") + 1), default=0)
    + models.Case(
        *(models.When(payload__startswith=mark, then=len(opening) - 1) for mark, opening in OPENINGS.items()),
        default=0,
        output_field=models.IntegerField(),
    )
)

SCRATCH = "reservoir-evaluation-"  # the prefix of partition names that clients may not use


class Scope(NamedTuple):
    """A partition and an instance: history never crosses this pair."""

    partition: str
    instance: str


class PartitionedQuerySet(models.QuerySet[M]):
    """Rows that belong to a partition; `partition_name` is the path to its name."""

    partition_name = "instance__partition__name"

    def without_scratch(self) -> Self:
        """All but those of scratch partitions."""
        return self.exclude(**{f"{self.partition_name}__startswith": SCRATCH})


class PartitionQuerySet(PartitionedQuerySet["Partition"]):
    partition_name = "name"

    def reached(self, reach: Reach) -> Self:
        """Those of which a caller reaches an instance, or would reach every instance."""
        rows = self.filter(named("name", reach.partitions))
        if reach.has_every_instance:
            return rows
        return rows.filter(named("instances__name", reach.instances)).distinct()


class InstanceQuerySet(PartitionedQuerySet["Instance"]):
    partition_name = "partition__name"

    def reached(self, reach: Reach) -> Self:
        """Those that a caller reaches."""
        return self.filter(named("partition__name", reach.partitions), named("name", reach.instances))

    def of_scope(self, scope: Scope) -> Self:
        """The instance of a scope: one row, or none if the scope is new."""
        named = self.filter(partition__name=scope.partition, name=scope.instance)
        return named.filter(pk__in=_instances(scope)) if scopes.is_distributed() else named


class NoScope(ValueError):
    """An instance was given without its partition."""

    def __init__(self) -> None:
        super().__init__("An instance needs its partition: name both.")


class ScopedQuerySet(PartitionedQuerySet[M]):
    """Rows that belong to an instance. This is the one place where they are narrowed to a scope."""

    def in_scope(self, scope: Scope) -> Self:
        named = self.filter(instance__partition__name=scope.partition, instance__name=scope.instance)
        return named.filter(instance__in=_instances(scope)) if scopes.is_distributed() else named

    def within(self, partition: str | None = None, instance: str | None = None) -> Self:
        """For operators, who may read across scopes: rows of a partition, of a scope, or of all but scratch partitions.

        Raises NoScope for an instance without its partition.
        """
        if partition is None and instance is not None:
            raise NoScope
        if partition is None:
            return self.without_scratch()
        rows = self.filter(instance__partition__name=partition)
        return rows if instance is None else rows.filter(instance__name=instance)

    def reached(self, reach: Reach) -> Self:
        """Those in scopes that a caller reaches."""
        if reach.is_everything:
            return self
        partitions, instances = "instance__partition__name", "instance__name"
        return self.filter(named(partitions, reach.partitions), named(instances, reach.instances))


def named(path: str, patterns: Sequence[Pattern]) -> Q:
    """The condition that the name at this path matches a pattern; that nothing does, without patterns."""
    if not patterns:
        return Q(pk__in=[])
    condition = Q()
    for pattern in patterns:
        if pattern.is_prefix and not pattern.text:
            return Q()
        condition |= Q(**{f"{path}__startswith" if pattern.is_prefix else path: pattern.text})
    return condition


def _instances(scope: Scope) -> list[int]:
    number = scopes.number_of(scope)
    return [] if number is None else [number]


class ExchangeQuerySet(ScopedQuerySet["Exchange"]):
    """Exchanges."""

    def by_provider(self, name: str) -> Self:
        """Those that this provider answered."""
        return self.alias(provider_name=PROVIDER_NAME).filter(provider_name=name[:NAME_INDEXED], provider=name)

    def by_model(self, name: str) -> Self:
        """Those that asked for this model."""
        return self.alias(model_name=MODEL_NAME).filter(model_name=name[:NAME_INDEXED], model=name)


class EmbeddingQuerySet(ScopedQuerySet["Embedding"]):
    """Vectors."""


class LedgerQuerySet(models.QuerySet["Ledger"]):
    def showing(self, message: Message) -> Self:
        """The ledgers of requests to which this message was added. Reads all ledgers of its scope."""
        return self.filter(exchange__instance_id=message.instance_id, message_ids__contains=[message.pk])


class MessageQuerySet(ScopedQuerySet["Message"]):
    def between(self, since: datetime | None = None, before: datetime | None = None) -> Self:
        """Messages from `since` (inclusive) to `before` (exclusive)."""
        rows = self if since is None else self.filter(created__gte=since)
        return rows if before is None else rows.filter(created__lt=before)

    def matching(self, words: str) -> Self:
        """Messages that contain all the words; "phrases" and -exclusions work. No input is an error."""
        query = search_query(storable(words)[:LONGEST_SEARCH].replace("\ufffd", " "))
        rows = self
        for each in query.lexemes:
            rows = rows.filter(lexemes=each)
        return rows if query.text is None else rows.alias(spoken=spoken()).filter(spoken=query.text)

    def with_raw(self, largest: int) -> Self:
        """Adds `size`, the payload's bytes, and `raw`, the payload as stored, empty if `size` is over `largest`."""
        size = PAYLOAD_SIZE
        raw = models.Case(
            models.When(size__lte=largest, then=models.F("payload")),
            default=models.Value(""),
            output_field=models.TextField(),
        )
        return self.annotate(size=size).annotate(raw=raw).defer("payload", "lexemes", "digest")

    def nearest(self, vector: Sequence[float], model: str) -> Self:
        """Messages with vectors of this embedding model, nearest first; `distance` is a cosine distance."""
        distance = Min(CosineDistance("embeddings__vector", vector))
        return self.filter(embeddings__model__name=model).annotate(distance=distance).order_by("distance", "-id")

    def recallable(self) -> Self:
        """Messages that may be shown to a model again: by a user or an assistant, with text, not abandoned."""
        return self.filter(role__in=("user", "assistant"), abandoned=False).exclude(content="")

    def recent(self, count: int) -> Self:
        """The latest `count` messages, newest first."""
        return self.order_by("-created", "-id")[:count]

    def backlog(self) -> Self:
        """Messages without an embedding, in the order they are due."""
        return self.filter(embed_due__isnull=False).order_by("embed_due")

    def known(self, instance_id: int, digests: Sequence[bytes]) -> list[Known]:
        """The instance's messages that share a digest with a turn, ready for alignment: the newest with each digest,
        and those before them on their branches, up to a few thousand.

        This runs with every request. It is SQL because Django would take longer to build the query than PostgreSQL to
        run it.
        """
        with connection.cursor() as cursor:
            most = LEAST_KNOWN + 4 * len(digests)
            cursor.execute(KNOWN, {"instance": instance_id, "digests": list(digests), "most": most})
            return [
                Known(
                    id=row[0],
                    digest=bytes(row[1]),
                    role=row[2],
                    parent=row[3],
                    parent_digest=bytes(row[4] or b""),
                    parent_role=row[5] or "",
                    parent_first=bool(row[6]),
                    grandparent=row[7],
                    grandparent_digest=bytes(row[8] or b""),
                    answer=row[9],
                    answered=row[10],
                    leaf=row[11],
                    alone=row[12],
                    abandoned=row[13],
                    created=row[14],
                )
                for row in cursor.fetchall()
            ]


@dataclass(frozen=True, slots=True)
class StoredBranches:
    """Reads branches of an instance (see changed.Branches)."""

    instance_id: int

    def through(self, message_id: int, turns: int) -> list[Node]:
        with connection.cursor() as cursor:
            most = {"up": 2 * turns + 64, "down": turns + 8}
            cursor.execute(BRANCH, {"instance": self.instance_id, "message": message_id, **most})
            return [Node(row[0], bytes(row[1]), *row[2:]) for row in cursor.fetchall()]

    def said(self, ids: Sequence[int]) -> dict[int, Said]:
        with connection.cursor() as cursor:
            cursor.execute(SAID, {"instance": self.instance_id, "ids": list(ids)})
            return {row[0]: Said(row[1], with_content(row[2], row[1])) for row in cursor.fetchall()}


# Up through parents; down through the latest child that is not abandoned.
BRANCH = """
WITH RECURSIVE up AS (
    SELECT id, digest, role, parent_id, abandoned, alone, 0 AS depth
    FROM conversations_message WHERE id = %(message)s AND instance_id = %(instance)s
    UNION ALL
    SELECT m.id, m.digest, m.role, m.parent_id, m.abandoned, m.alone, up.depth - 1
    FROM up JOIN conversations_message m ON m.id = up.parent_id AND m.instance_id = %(instance)s
    WHERE up.depth > -%(up)s
), down AS (
    SELECT * FROM up WHERE depth = 0
    UNION ALL
    SELECT child.id, child.digest, child.role, child.parent_id, child.abandoned, child.alone, down.depth + 1
    FROM down CROSS JOIN LATERAL (
        SELECT * FROM conversations_message m
        WHERE m.parent_id = down.id AND m.instance_id = %(instance)s AND NOT m.alone
        ORDER BY m.abandoned, m.id DESC LIMIT 1
    ) child WHERE down.depth < %(down)s
)
SELECT id, digest, role, parent_id, abandoned, alone
FROM (SELECT * FROM up UNION SELECT * FROM down) branch ORDER BY depth
"""

SAID = """
SELECT id, content, payload FROM conversations_message WHERE instance_id = %(instance)s AND id = ANY(%(ids)s)
"""

# The limit on known messages for a short history; it grows with the history. Without a limit, a scope that repeats two
# sentences would be climbed as a whole.
LEAST_KNOWN = 2_000

# A sentence may occur thousands of times in a scope. Only its newest few occurrences are taken. From there the branches
# are climbed as long as they contain turns of the request, so older occurrences on them are found too. An answer that
# the client omitted is skipped.
KNOWN = """
WITH RECURSIVE wanted AS (
    SELECT DISTINCT unnest(%(digests)s::bytea[]) AS digest
), found AS (
    SELECT newest.id, newest.parent_id FROM wanted, LATERAL (
        SELECT id, parent_id FROM conversations_message
        WHERE instance_id = %(instance)s AND digest = wanted.digest ORDER BY id DESC LIMIT 20
    ) newest
    UNION
    SELECT before.id, before.parent_id FROM found
    JOIN conversations_message p ON p.id = found.parent_id AND p.instance_id = %(instance)s
    LEFT JOIN conversations_message g
      ON g.id = p.parent_id AND g.instance_id = %(instance)s AND p.role = 'assistant'
    CROSS JOIN LATERAL (
        SELECT p.id, p.parent_id WHERE p.digest = ANY(%(digests)s)
        UNION ALL
        SELECT g.id, g.parent_id WHERE g.digest = ANY(%(digests)s)
    ) before
)
SELECT m.id, m.digest, m.role,
       p.id, p.digest, p.role, p.alone OR p.parent_id IS NULL,
       g.id, g.digest,
       (SELECT a.id FROM conversations_message a
        WHERE a.parent_id = m.id AND a.instance_id = %(instance)s AND a.role = 'assistant'
        ORDER BY a.abandoned, a.id DESC LIMIT 1),
       EXISTS (SELECT FROM conversations_message a
               WHERE a.parent_id = m.id AND a.instance_id = %(instance)s AND a.role = 'assistant' AND NOT a.partial)
       OR EXISTS (SELECT FROM conversations_exchange e
                  WHERE e.question_id = m.id AND e.instance_id = %(instance)s AND e.ended = 'open'),
       NOT EXISTS (SELECT FROM conversations_message c
                   WHERE c.parent_id = m.id AND c.instance_id = %(instance)s AND NOT c.alone),
       m.alone, m.abandoned, m.created
FROM (SELECT id FROM found LIMIT %(most)s) found
JOIN conversations_message m ON m.id = found.id AND m.instance_id = %(instance)s
LEFT JOIN conversations_message p ON p.id = m.parent_id AND p.instance_id = %(instance)s
LEFT JOIN conversations_message g ON g.id = p.parent_id AND g.instance_id = %(instance)s
ORDER BY m.id DESC
"""
