"""Reads in domain words. Whoever reads messages of a scope begins with in_scope(): it is the one place that
says what a scope may see."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple, Self

from django.conf import settings
from django.contrib.postgres.search import SearchQuery
from django.db import models
from django.db.models import Exists, Min, OuterRef, Subquery
from pgvector.django import CosineDistance

from conversations.capture import Known

if TYPE_CHECKING:
    from conversations.models import Exchange, Instance, Message  # noqa: F401, named in the bases below


SCRATCH = "reservoir-evaluation-"  # how names of partitions begin that no client may use


class Scope(NamedTuple):
    """The pair that history never crosses."""

    partition: str
    instance: str


class InstanceQuerySet(models.QuerySet["Instance"]):
    def of_scope(self, scope: Scope) -> Self:
        """The instance of a scope, if there is one yet."""
        return self.filter(partition__name=scope.partition, name=scope.instance)


class ExchangeQuerySet(models.QuerySet["Exchange"]):
    def in_scope(self, scope: Scope) -> Self:
        return self.filter(instance__partition__name=scope.partition, instance__name=scope.instance)

    def within(self, partition: str | None = None, instance: str | None = None) -> Self:
        """For operators: narrowed to a partition, or a scope, where one is given."""
        rows = self if partition is None else self.filter(instance__partition__name=partition)
        return rows if instance is None else rows.filter(instance__name=instance)


class MessageQuerySet(models.QuerySet["Message"]):
    def in_scope(self, scope: Scope) -> Self:
        return self.filter(instance__partition__name=scope.partition, instance__name=scope.instance)

    def within(self, partition: str | None = None, instance: str | None = None) -> Self:
        """For operators, who may look across scopes: narrowed to a partition, or a scope, where one is given."""
        rows = self if partition is None else self.filter(instance__partition__name=partition)
        return rows if instance is None else rows.filter(instance__name=instance)

    def between(self, since: datetime | None = None, before: datetime | None = None) -> Self:
        """Those of a time: `since` included, `before` not."""
        rows = self if since is None else self.filter(created__gte=since)
        return rows if before is None else rows.filter(created__lt=before)

    def matching(self, words: str) -> Self:
        """Those that hold the words: all of them, "phrases", -exclusions. No input is an error."""
        query = SearchQuery(
            words.replace("\x00", " ")[:1000], config=settings.RESERVOIR_LANGUAGE, search_type="websearch"
        )
        return self.filter(lexemes=query)

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
        """The instance's messages that share a digest with a turn, ready to be aligned; newest 2,000."""
        children = self.model._default_manager.filter(parent=OuterRef("pk"))
        answers = children.filter(role="assistant").order_by("abandoned", "-id")
        asking = self.model._meta.get_field("asked_in").related_model._default_manager.filter(
            question=OuterRef("pk"), ended="open"
        )
        rows = (
            self.filter(instance_id=instance_id, digest__in=digests)
            .annotate(
                leaf=~Exists(children.filter(alone=False)),
                answer=Subquery(answers.values("pk")[:1]),
                answered=Exists(children.filter(role="assistant", partial=False)) | Exists(asking),
            )
            .order_by("-id")
            .values_list(
                "id",
                "digest",
                "role",
                "parent_id",
                "parent__digest",
                "parent__role",
                "parent__alone",
                "parent__parent_id",
                "parent__parent__digest",
                "answer",
                "answered",
                "leaf",
            )[:2000]
        )
        return [
            Known(
                id=row[0],
                digest=bytes(row[1]),
                role=row[2],
                parent=row[3],
                parent_digest=bytes(row[4] or b""),
                parent_role=row[5] or "",
                parent_first=bool(row[6]) or row[7] is None,
                grandparent=row[7],
                grandparent_digest=bytes(row[8] or b""),
                answer=row[9],
                answered=row[10],
                leaf=row[11],
            )
            for row in rows
        ]
