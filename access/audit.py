"""The audit: who did what, and what was refused. Rows are only ever added."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from access.models import AuditRecord

COMMAND_LINE = "command line"


class Action(StrEnum):
    """What the audit knows."""

    KEY_CREATED = "key created"
    KEY_CHANGED = "key changed"
    KEY_ROTATED = "key rotated"
    KEY_REVOKED = "key revoked"
    DENIED = "denied"
    READ = "read"
    EXPORTED = "exported"
    FORGOTTEN = "forgotten"
    LIMITS_CHANGED = "limits changed"
    SETTINGS_CHANGED = "settings changed"
    CREDENTIAL_SET = "credential set"
    CREDENTIAL_REMOVED = "credential removed"
    CREDENTIALS_ROTATED = "credentials rotated"


@dataclass(frozen=True, slots=True)
class Who:
    """Who acts: a user of the admin, the command line, or a key; and from which address."""

    actor: str = ""
    address: str = ""
    key_id: str = ""


def record(
    action: Action, who: Who, *, partition: str = "", instance: str = "", details: Mapping[str, Any] | None = None
) -> None:
    """Add a row. `details` are names and numbers: never a secret, never a text. Raises django.db.Error."""
    AuditRecord.objects.create(
        action=action,
        actor=who.actor,
        address=who.address,
        key_id=who.key_id,
        partition=partition,
        instance=instance,
        details=dict(details or {}),
    )
