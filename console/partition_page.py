"""One partition: its totals, its size and its instances."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import reverse

from console import storage
from console.pages import page
from conversations.models import Instance, Partition

BUSIEST = 100


def show(request: HttpRequest, partition: Any) -> HttpResponse:
    """The page of a partition, annotated with its totals by lists/partitions.py."""
    instances = Instance.objects.filter(partition=partition).order_by("-last_active")
    return page(
        request,
        "partition",
        title=partition.name,
        trail=[("Partitions", reverse("admin:conversations_partition_changelist"))],
        partition=partition,
        choices=Partition.Remember.choices,
        instances=list(instances[:BUSIEST]),
        most=BUSIEST,
        size=storage.share(partition.message_total),
    )
