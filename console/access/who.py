"""The user of a page, as the audit names them; and the audit of conversations that they read."""

from __future__ import annotations

import time
from typing import Any

from django.http import HttpRequest

from access import audit
from access.audit import Action, Who
from conversations.models import Exchange, Instance, Message

AGAIN_SECONDS = 600.0  # within which reading the same conversation leaves no second row
MOST = 10_000  # pairs of user and conversation that are remembered

_noted: dict[tuple[Any, int], float] = {}


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
