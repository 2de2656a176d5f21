"""Reads in domain words. Whoever reads messages of a scope begins with in_scope(): it is the one place that
says what a scope may see."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar

from django.conf import settings
from django.contrib.postgres.search import SearchQuery
from django.db import connection, models
from django.db.models import Min
from pgvector.django import CosineDistance

from conversations.capture import Known

if TYPE_CHECKING:
    from conversations.models import Embedding, Exchange, Instance, Message, Partition  # noqa: F401, named in the bases below


M = TypeVar("M", bound=models.Model)

LONGEST_SEARCH = 1000  # characters of the words to search for; what is longer is cut

SCRATCH = "reservoir-evaluation-"  # how names of partitions begin that no client may use


class Scope(NamedTuple):
    """The pair that history never crosses."""

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


class InstanceQuerySet(PartitionedQuerySet["Instance"]):
    partition_name = "partition__name"

    def of_scope(self, scope: Scope) -> Self:
        """The instance of a scope, if there is one yet."""
        return self.filter(partition__name=scope.partition, name=scope.instance)


class NoScope(ValueError):
    """An instance without its partition is no place."""

    def __init__(self) -> None:
        super().__init__("An instance is named without its partition: name both.")


class ScopedQuerySet(PartitionedQuerySet[M]):
    """Rows that belong to an instance: the one place where they are narrowed to a scope."""

    def in_scope(self, scope: Scope) -> Self:
        return self.filter(instance__partition__name=scope.partition, instance__name=scope.instance)

    def within(self, partition: str | None = None, instance: str | None = None) -> Self:
        """For operators, who may look across scopes: of a partition, of a scope, or of all but what is only there to
        measure with. Raises NoScope.
        """
        if partition is None and instance is not None:
            raise NoScope
        if partition is None:
            return self.without_scratch()
        rows = self.filter(instance__partition__name=partition)
        return rows if instance is None else rows.filter(instance__name=instance)


class ExchangeQuerySet(ScopedQuerySet["Exchange"]):
    """Exchanges."""


class EmbeddingQuerySet(ScopedQuerySet["Embedding"]):
    """Vectors."""


class MessageQuerySet(ScopedQuerySet["Message"]):
    def between(self, since: datetime | None = None, before: datetime | None = None) -> Self:
        """Those of a time: `since` included, `before` not."""
        rows = self if since is None else self.filter(created__gte=since)
        return rows if before is None else rows.filter(created__lt=before)

    def matching(self, words: str) -> Self:
        """Those that hold the words: all of them, "phrases", -exclusions. No input is an error."""
        query = SearchQuery(
            words.replace("\x00", " ")[:LONGEST_SEARCH], config=settings.RESERVOIR_LANGUAGE, search_type="websearch"
        )
        return self.filter(lexemes=query)

    def with_raw(self, largest: int) -> Self:
        """Adds the `size` of the payload in bytes, and `raw`: the payload, or nothing where it is larger than that."""
        size = models.Func(models.F("payload"), function="octet_length", output_field=models.IntegerField())
        raw = models.Case(
            models.When(size__lte=largest, then=models.F("payload")),
            default=models.Value(""),
            output_field=models.TextField(),
        )
        return self.annotate(size=size).annotate(raw=raw).defer("payload", "lexemes", "digest")

    def nearest(self, vector: Sequence[float], model: str) -> Self:
        """Those with a vector under this embedding model, the nearest piece's `distance` first (cosine, 0 to 2)."""
        distance = Min(CosineDistance("embeddings__vector", vector))
        return self.filter(embeddings__model__name=model).annotate(distance=distance).order_by("distance", "-id")

    def recallable(self) -> Self:
        """What the model may be shown again: said by a person or a model, in words, on a living branch."""
        return self.filter(role__in=("user", "assistant"), abandoned=False).exclude(content="")

    def recent(self, count: int) -> Self:
        """The latest, newest first."""
        return self.order_by("-created", "-id")[:count]

    def backlog(self) -> Self:
        """Messages without an embedding, those due first at the front."""
        return self.filter(embed_due__isnull=False).order_by("embed_due")

    def known(self, instance_id: int, digests: Sequence[bytes]) -> list[Known]:
        """The instance's messages that share a digest with a turn, ready to be aligned: the newest of each digest, and
        what lies before them on their branches, up to some thousands.

        Asked with every request; as SQL, since Django takes longer to put it together than PostgreSQL to answer it.
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
                )
                for row in cursor.fetchall()
            ]


# So many are found in any case, and more for a long history. Where two sentences are all that is ever said, the branch
# that is climbed is the whole scope.
LEAST_KNOWN = 2_000

# A sentence may be said thousands of times in a scope: of each the newest few are taken, and from there the branches
# are climbed as far as they hold turns of the request, which are found there however often they have been said since.
# An answer that the client left out is climbed over.
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
    JOIN conversations_message p ON p.id = found.parent_id
    LEFT JOIN conversations_message g ON g.id = p.parent_id AND p.role = 'assistant'
    CROSS JOIN LATERAL (
        SELECT p.id, p.parent_id WHERE p.digest = ANY(%(digests)s)
        UNION ALL
        SELECT g.id, g.parent_id WHERE g.digest = ANY(%(digests)s)
    ) before
)
SELECT m.id, m.digest, m.role,
       p.id, p.digest, p.role, p.alone OR p.parent_id IS NULL,
       g.id, g.digest,
       (SELECT a.id FROM conversations_message a WHERE a.parent_id = m.id AND a.role = 'assistant'
        ORDER BY a.abandoned, a.id DESC LIMIT 1),
       EXISTS (SELECT FROM conversations_message a
               WHERE a.parent_id = m.id AND a.role = 'assistant' AND NOT a.partial)
       OR EXISTS (SELECT FROM conversations_exchange e WHERE e.question_id = m.id AND e.ended = 'open'),
       NOT EXISTS (SELECT FROM conversations_message c WHERE c.parent_id = m.id AND NOT c.alone),
       m.alone, m.abandoned
FROM (SELECT id FROM found LIMIT %(most)s) found
JOIN conversations_message m ON m.id = found.id
LEFT JOIN conversations_message p ON p.id = m.parent_id
LEFT JOIN conversations_message g ON g.id = p.parent_id
ORDER BY m.id DESC
"""
