"""The user of a page, as the audit names them; and the audit of conversations that they read."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.http import HttpRequest

from access import audit
from access.audit import Action, Who
from console.visible import allowed_partitions
from conversations.models import Exchange, Instance, Message

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin

AGAIN_SECONDS = 600.0  # within which reading the same conversation leaves no second row
MOST = 10_000  # pairs of user and conversation that are remembered

_noted: dict[tuple[Any, int], float] = {}


class ForUnlimited(ModelAdmin):
    """Rows that concern all partitions: users who are limited to some see none of them, whatever their permissions."""

    def has_module_permission(self, request: HttpRequest) -> bool:
        return allowed_partitions(request) is None and super().has_module_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return allowed_partitions(request) is None and super().has_view_permission(request, obj)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return allowed_partitions(request) is None and super().has_add_permission(request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return allowed_partitions(request) is None and super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return allowed_partitions(request) is None and super().has_delete_permission(request, obj)


def may_see_keys(request: HttpRequest) -> bool:
    """Whether pages about exchanges tell which access keys they came with."""
    return allowed_partitions(request) is None


def who(request: HttpRequest) -> Who:
    return Who(actor=request.user.get_username(), address=request.META.get("REMOTE_ADDR") or "")


def note_read(request: HttpRequest, row: Any) -> None:
    """Leave a row in the audit when a page shows a conversation, or a part of one. Raises django.db.Error."""
    if isinstance(row, Exchange | Message):
        instance = row.instance
    elif isinstance(row, Instance):
        instance = row
    else:
        return
    now, key = time.monotonic(), (request.user.pk, instance.pk)
    if now - _noted.get(key, float("-inf")) < AGAIN_SECONDS:
        return
    if len(_noted) >= MOST:
        _noted.clear()
    _noted[key] = now
    audit.record(Action.READ, who(request), partition=instance.partition.name, instance=instance.name)
