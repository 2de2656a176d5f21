"""The list of conversations: the instances."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from console import tags
from console.conversation import dialogue
from console.lists.base import ReadOnly
from console.lists.filters import InPartition, PartitionName
from conversations.models import Instance


@admin.register(Instance)
class InstanceAdmin(ReadOnly):
    list_display = ("called", "in_partition", "messages", "exchanges", "first", "last")
    list_display_links = ("called",)
    list_select_related = ("partition",)
    search_fields = ("name", "partition__name")
    search_help_text = "Part of a conversation's or a partition's name"
    list_filter = (InPartition, PartitionName)
    ordering = ("-last_active",)
    sortable_by = ("called", "messages", "last")

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        return super().changelist_view(request, {"title": "Conversations"})

    @admin.display(description="conversation", ordering="name")
    def called(self, instance: Instance) -> SafeString:
        return tags.bdi(instance.name)

    @admin.display(description="partition")
    def in_partition(self, instance: Instance) -> SafeString:
        url = reverse("admin:conversations_partition_change", args=[instance.partition_id])
        return format_html('<a href="{}">{}</a>', url, tags.bdi(instance.partition.name))

    @admin.display(description="messages", ordering="message_count")
    def messages(self, instance: Instance) -> str:
        return tags.compact(instance.message_count)

    @admin.display(description="exchanges")
    def exchanges(self, instance: Instance) -> str:
        return tags.compact(instance.exchange_count)

    @admin.display(description="first active")
    def first(self, instance: Instance) -> SafeString:
        return tags.ago(instance.created)

    @admin.display(description="last active", ordering="last_active")
    def last(self, instance: Instance) -> SafeString:
        return tags.ago(instance.last_active)

    def page(self, request: HttpRequest, found: Any) -> HttpResponse:
        return dialogue.show(request, found)
