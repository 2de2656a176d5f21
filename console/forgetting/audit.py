"""The audit: who forgot how much, and when."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest

from console.visible import allowed_partitions
from conversations.models import AuditEntry, Partition


def audit(request: HttpRequest) -> Any:
    """The audit entries of partitions that the user may see."""
    entries = AuditEntry.objects.all()
    allowed = allowed_partitions(request)
    if allowed is None:
        return entries
    return entries.filter(
        criteria__partition__in=list(Partition.objects.filter(pk__in=allowed).values_list("name", flat=True))
    )
