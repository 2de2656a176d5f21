"""The ready-made groups of users."""

from __future__ import annotations

from django.contrib.auth.models import Group, Permission

MODELS = ("partition", "instance", "exchange", "message", "ledger", "embedding", "embeddingmodel")
VIEWER, PRUNER = "Viewer", "Pruner"


def make_groups() -> None:
    """Make the groups Viewer (sees everything) and Pruner (may also forget) unless they exist."""
    may_view = [f"view_{model}" for model in MODELS]
    for name, codenames in ((VIEWER, may_view), (PRUNER, [*may_view, "delete_message"])):
        group, made = Group.objects.get_or_create(name=name)
        if made:
            wanted = Permission.objects.filter(content_type__app_label="conversations", codename__in=codenames)
            group.permissions.set(wanted)
