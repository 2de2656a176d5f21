"""The frame of all pages, and the trails of links that lead to them."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.urls import reverse

from console import safe_text
from console.visible import may
from conversations.models import Instance, Partition

EXPORT_FORMATS = (  # as exporting.py names them
    ("jsonl", "JSON Lines", "complete, for import"),
    ("markdown", "Markdown", "to read"),
    ("json", "JSON", "the original Reservoir's form"),
)


def page(request: HttpRequest, template: str, *, title: str, **context: Any) -> TemplateResponse:
    """A page of the admin from `reservoir/<template>.html`."""
    frame = admin.site.each_context(request) | {
        "may_prune": may(request, "delete_message"),
        "may_export": may(request, "view_message") and may(request, "view_exchange"),
        "export_formats": EXPORT_FORMATS,
    }
    everything = {**frame, "title": safe_text.shown(title), **context}
    return TemplateResponse(request, f"admin/reservoir/{template}.html", everything)


def to_partition(partition: Partition) -> list[tuple[str, str]]:
    """The trail to a partition, itself included: names and addresses."""
    return [
        ("Partitions", reverse("admin:conversations_partition_changelist")),
        (partition.name, reverse("admin:conversations_partition_change", args=[partition.pk])),
    ]


def to_instance(instance: Instance) -> list[tuple[str, str]]:
    """The trail to an instance, itself included."""
    url = reverse("admin:conversations_instance_change", args=[instance.pk])
    return [*to_partition(instance.partition), (instance.name, url)]
