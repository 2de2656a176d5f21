"""The list of partitions."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Count, Max, Min, QuerySet, Sum
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse
from django.utils.safestring import SafeString

from console import partition_page, tags
from console.lists.base import ReadOnly
from conversations.models import Partition


@admin.register(Partition)
class PartitionAdmin(ReadOnly):
    list_display = ("called", "instances", "messages", "exchanges", "first", "last")
    list_display_links = ("called",)
    search_fields = ("name",)
    search_help_text = "Part of a name"
    sortable_by = ("called", "messages", "last")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request)
        totals: QuerySet[Any] = rows.annotate(
            instance_total=Count("instances"),
            message_total=Coalesce(Sum("instances__message_count"), 0),
            exchange_total=Coalesce(Sum("instances__exchange_count"), 0),
            first_active=Min("instances__created"),
            latest=Max("instances__last_active"),
        )
        return totals

    @admin.display(description="partition", ordering="name")
    def called(self, partition: Any) -> SafeString:
        return tags.bdi(partition.name)

    @admin.display(description="conversations")
    def instances(self, partition: Any) -> str:
        return tags.compact(partition.instance_total)

    @admin.display(description="messages", ordering="message_total")
    def messages(self, partition: Any) -> str:
        return tags.compact(partition.message_total)

    @admin.display(description="exchanges")
    def exchanges(self, partition: Any) -> str:
        return tags.compact(partition.exchange_total)

    @admin.display(description="first active")
    def first(self, partition: Any) -> SafeString:
        return tags.ago(partition.first_active)

    @admin.display(description="last active", ordering="latest")
    def last(self, partition: Any) -> SafeString:
        return tags.ago(partition.latest)

    def page(self, request: HttpRequest, found: Any) -> HttpResponse:
        return partition_page.show(request, found)
