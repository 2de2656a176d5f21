"""The list of exchanges."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.db.models.functions import Left
from django.http import HttpRequest, HttpResponse
from django.utils.safestring import SafeString

from console import tags
from console.access.who import may_see_keys
from console.exchange import page as exchange_page
from console.lists.base import ReadOnly
from console.lists.columns import SNIPPET, ended_badge, scope_link
from console.lists.filters import (
    InInstance,
    InPartition,
    KeyName,
    Memory,
    ModelName,
    PartitionName,
    Provider,
    RuleName,
    Status,
)
from console.search import words
from console.visible import may
from conversations.models import Exchange
from conversations.states import MemoryState


@admin.register(Exchange)
class ExchangeAdmin(ReadOnly):
    list_display = ("at", "asked", "scope", "how", "model", "memory_shown", "tokens", "costs", "took")
    list_display_links = ("at", "asked")
    list_select_related = ("instance__partition",)
    list_filter = (
        InPartition, InInstance, "ended", Memory, "created", Provider, ModelName, Status, RuleName, PartitionName,
        KeyName,
    )  # fmt: skip
    search_fields = ("trace_id",)
    search_help_text = "Trace id, or words of the question (searches the latest matches)"
    sortable_by = ("at",)

    def get_list_display(self, request: HttpRequest) -> tuple[str, ...]:
        """Only users who may view messages see the question."""
        reads = may(request, "view_message")
        return self.list_display if reads else tuple(name for name in self.list_display if name != "asked")

    def get_list_filter(self, request: HttpRequest) -> tuple[Any, ...]:
        return tuple(each for each in self.list_filter if each is not KeyName or may_see_keys(request))

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request).annotate(question_text=Left("question__content", SNIPPET))
        return rows.defer("prompts", "parameters", "request_ids", "left_out", "usage", "error")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        return words.exchanges(request, queryset, search_term), False

    @admin.display(description="when", ordering="created")
    def at(self, exchange: Exchange) -> SafeString:
        return tags.clock(exchange.created)

    @admin.display(description="question")
    def asked(self, exchange: Any) -> SafeString:
        return tags.safe_inline(exchange.question_text or "(no user message)", 90)

    @admin.display(description="scope")
    def scope(self, exchange: Exchange) -> SafeString:
        return scope_link(exchange.instance)

    @admin.display(description="ended")
    def how(self, exchange: Exchange) -> SafeString:
        return ended_badge(exchange)

    @admin.display(description="memories")
    def memory_shown(self, exchange: Exchange) -> str:
        if exchange.memory == MemoryState.ON:
            return str(exchange.memories or tags.NONE)
        return exchange.rule or exchange.memory

    @admin.display(description="tokens")
    def tokens(self, exchange: Exchange) -> str:
        return f"{tags.compact(exchange.input_tokens)} → {tags.compact(exchange.output_tokens)}"

    @admin.display(description="cost")
    def costs(self, exchange: Exchange) -> str:
        return tags.money(exchange.cost)

    @admin.display(description="took")
    def took(self, exchange: Exchange) -> str:
        return tags.milliseconds(exchange.timings.get("total"))

    def page(self, request: HttpRequest, found: Any) -> HttpResponse:
        return exchange_page.show(request, found)
