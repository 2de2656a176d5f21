"""What exchanges used, also by access key: conversations/usage.py knows keys by their public ids, this knows names."""

from __future__ import annotations

from collections.abc import Sequence

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
    ids = {row["key"] for row in rows}
    names = dict(AccessKey.objects.filter(public_id__in=ids).values_list("public_id", "name"))
    return [row | {"key": _title(row["key"], names.get(row["key"]))} for row in rows]


def ids_of(name_or_id: str) -> list[str]:
    """The public ids of the keys of this name, also revoked ones; or the one of this id."""
    rows = AccessKey.objects.filter(Q(name=name_or_id) | Q(public_id=name_or_id))
    return list(rows.order_by("pk").values_list("public_id", flat=True))


def title(public_id: str) -> str:
    """A key as pages name it; empty for an exchange without one."""
    if not public_id:
        return ""
    return _title(public_id, AccessKey.objects.filter(public_id=public_id).values_list("name", flat=True).first())


def _title(public_id: str, name: str | None) -> str:
    return f"{name} ({public_id})" if name else public_id or NO_KEY
