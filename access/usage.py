"""What exchanges used, also by access key: conversations/usage.py knows keys by their public ids, this knows names."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from django.db.models import Q, QuerySet

from access.models import AccessKey
from conversations.models import Exchange
from conversations.turns import Json
from conversations.usage import usage

NO_KEY = "none"


def usage_by(exchanges: QuerySet[Exchange], by: Sequence[str]) -> list[Json]:
    """As conversations.usage.usage(), with keys as `name (public id)`. Raises django.db.Error."""
    rows = usage(exchanges, by)
    if "key" not in by:
        return rows
    named = titles({row["key"] for row in rows})
    return [row | {"key": named[row["key"]]} for row in rows]


def ids_of(name_or_id: str) -> list[str]:
    """The public ids of the keys of this name, also revoked ones; or the one of this id."""
    rows = AccessKey.objects.filter(Q(name=name_or_id) | Q(public_id=name_or_id))
    return list(rows.order_by("pk").values_list("public_id", flat=True))


def title(public_id: str) -> str:
    """A key as pages name it; empty for an exchange without one."""
    return titles([public_id])[public_id] if public_id else ""


def titles(public_ids: Collection[str]) -> dict[str, str]:
    """Keys as pages name them, by their public ids; NO_KEY for an empty one."""
    names = dict(AccessKey.objects.filter(public_id__in=public_ids).values_list("public_id", "name"))
    return {one: f"{names[one]} ({one})" if one in names else one or NO_KEY for one in public_ids}
