"""Reads in domain words. Whoever reads messages of a scope begins with in_scope(): it is the one place that
says what a scope may see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Self

from django.db import models
from django.db.models import Exists, OuterRef, Subquery

from conversations.capture import Known

if TYPE_CHECKING:
    from conversations.models import Exchange, Instance, Message  # noqa: F401, named in the bases below


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


class MessageQuerySet(models.QuerySet["Message"]):
    def in_scope(self, scope: Scope) -> Self:
        return self.filter(instance__partition__name=scope.partition, instance__name=scope.instance)

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
                leaf=~Exists(children),
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
                grandparent=row[6],
                grandparent_digest=bytes(row[7] or b""),
                answer=row[8],
                answered=row[9],
                leaf=row[10],
            )
            for row in rows
        ]
