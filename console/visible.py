"""Which rows a user may see. Only this module hides rows: scratch partitions from all users, and other partitions from
limited users.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import HttpRequest

from conversations.models import Embedding, Exchange, Instance, Ledger, Message, Partition, StaffLimit
from conversations.querysets import SCRATCH

M = TypeVar("M", bound=Model)

# From a row to its partition, or to its instance.
PARTITIONS: dict[type[Model], str] = {Partition: "pk", Instance: "partition"}
INSTANCES: dict[type[Model], str] = {
    Exchange: "instance",
    Message: "instance",
    Embedding: "instance",
    Ledger: "exchange__instance",
}

# Up to this many instances are listed by id. PostgreSQL has statistics about single instances, and so chooses the right
# index; it has none about the instances of a partition.
NAMED = 2_000


def visible(request: HttpRequest, queryset: QuerySet[M]) -> QuerySet[M]:
    """The rows that the request's user may see. Every query of the console starts here."""
    if scratch := _scratch(request):
        path = PARTITIONS.get(queryset.model)
        hidden = scratch if path else list(instances_of(scratch))
        queryset = queryset.exclude(**{f"{path or INSTANCES[queryset.model]}__in": hidden})
    allowed = allowed_partitions(request)
    if allowed is None:
        return queryset
    if path := PARTITIONS.get(queryset.model):
        return queryset.filter(**{f"{path}__in": allowed})
    if not hasattr(request, "reservoir_instances"):
        request.reservoir_instances = instances_of(allowed)  # type: ignore[attr-defined]
    instances = request.reservoir_instances  # type: ignore[attr-defined]
    return queryset.filter(**{f"{INSTANCES[queryset.model]}__in": instances})


def instances_of(partitions: Sequence[int]) -> Sequence[int] | QuerySet[Any]:
    """The ids of these partitions' instances: a list, or a subquery for many."""
    instances = Instance.objects.filter(partition__in=partitions).order_by().values_list("pk", flat=True)
    named = list(instances[: NAMED + 1])
    return named if len(named) <= NAMED else instances


def allowed_partitions(request: HttpRequest) -> list[int] | None:
    """The ids of the partitions that the user is limited to; None for no limit. One query a request."""
    if not hasattr(request, "reservoir_partitions"):
        request.reservoir_partitions = _limit(request.user)  # type: ignore[attr-defined]
    return request.reservoir_partitions  # type: ignore[attr-defined, no-any-return]


def _scratch(request: HttpRequest) -> list[int]:
    """The ids of scratch partitions, usually none. One query a request."""
    if not hasattr(request, "reservoir_scratch"):
        rows = Partition.objects.filter(name__startswith=SCRATCH).order_by()
        request.reservoir_scratch = list(rows.values_list("pk", flat=True))  # type: ignore[attr-defined]
    return request.reservoir_scratch  # type: ignore[attr-defined, no-any-return]


def require(request: HttpRequest, *permissions: str) -> None:
    """Raises PermissionDenied unless the user has all of these permissions, such as view_message."""
    if not all(may(request, permission) for permission in permissions):
        raise PermissionDenied


def may(request: HttpRequest, permission: str) -> bool:
    """Whether the user has this permission on stored data."""
    user: Any = request.user
    return bool(user.has_perm(f"conversations.{permission}"))


def _limit(user: AbstractBaseUser | AnonymousUser) -> list[int] | None:
    if getattr(user, "is_superuser", False):
        return None
    rows = StaffLimit.objects.filter(user=user.pk).values_list("pk", "partitions")
    limits = list(rows)
    if not limits:
        return None
    return [partition for _, partition in limits if partition is not None]
