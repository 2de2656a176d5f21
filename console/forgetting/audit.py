"""What has been forgotten."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest

from console.visible import allowed_partitions
from conversations.models import AuditEntry, Partition


def audit(request: HttpRequest) -> Any:
    """What has been forgotten, where the user may see it."""
    entries = AuditEntry.objects.all()
    allowed = allowed_partitions(request)
    if allowed is None:
        return entries
    return entries.filter(
        criteria__partition__in=list(Partition.objects.filter(pk__in=allowed).values_list("name", flat=True))
    )
