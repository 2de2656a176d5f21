"""What was shown, sealed, so that exactly that is confirmed."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

from django.core.exceptions import PermissionDenied
from django.core.signing import BadSignature, dumps, loads
from django.http import HttpRequest

from console.visible import visible
from conversations.forgetting import Counts
from conversations.models import Partition
from conversations.selection import Selection


def seal(request: HttpRequest, selection: Selection, counts: Counts) -> str:
    """What is confirmed is what was shown, to this user."""
    said = asdict(selection)
    for key in ("since", "before"):
        said[key] = said[key].isoformat() if said[key] else None
    return dumps({"by": request.user.pk, "selection": said, "counts": asdict(counts)}, salt="prune", compress=True)


def unseal(request: HttpRequest) -> tuple[Selection, Counts]:
    """Raises BadSignature for what this user was not shown within the last hour."""
    sealed = loads(request.POST.get("sealed", ""), salt="prune", max_age=3600)
    if sealed["by"] != request.user.pk:
        raise BadSignature
    said = sealed["selection"]
    for key in ("since", "before"):
        said[key] = datetime.fromisoformat(said[key]) if said[key] else None
    said["ids"] = tuple(said["ids"]) if said["ids"] is not None else None
    selection = Selection(**said)
    if selection.partition is None or not visible(request, Partition.objects.filter(name=selection.partition)).exists():
        raise PermissionDenied  # the limit may be newer than what was shown
    return selection, Counts(**sealed["counts"])
