"""Signs what a dry run showed, so that a confirmation covers exactly that."""

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
    """A signed text of the selection and its counts, valid for this user."""
    said = asdict(selection)
    for key in ("since", "before"):
        said[key] = said[key].isoformat() if said[key] else None
    return dumps({"by": request.user.pk, "selection": said, "counts": asdict(counts)}, salt="prune", compress=True)


def unseal(request: HttpRequest) -> tuple[Selection, Counts]:
    """Raises BadSignature unless this user was shown the selection within the last hour, PermissionDenied for a
    partition that the user may no longer see.
    """
    sealed = loads(request.POST.get("sealed", ""), salt="prune", max_age=3600)
    if sealed["by"] != request.user.pk:
        raise BadSignature
    said = sealed["selection"]
    for key in ("since", "before"):
        said[key] = datetime.fromisoformat(said[key]) if said[key] else None
    said["ids"] = tuple(said["ids"]) if said["ids"] is not None else None
    selection = Selection(**said)
    if selection.partition is None or not visible(request, Partition.objects.filter(name=selection.partition)).exists():
        raise PermissionDenied  # the user may have been limited since the dry run
    return selection, Counts(**sealed["counts"])
