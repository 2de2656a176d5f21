"""The list of exchanges."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.db.models.functions import Left
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from console import tags
from console.access.who import may_see_keys
from console.exchange import page as exchange_page
from console.lists.base import ReadOnly, Sorted
from console.lists.columns import SNIPPET, ended_badge, scope_link
from console.lists.days import Days
from console.lists.exchange_files import download
from console.lists.exchange_filters import HowItEnded, KeyName, Memory, ModelName, Provider, RuleName, Status
from console.lists.filters import InInstance, InPartition, PartitionName, address
from console.lists.steps import Steps, steps_of
from console.search import words
from console.visible import may, require
from conversations.models import Exchange
from conversations.querysets import HAS_MS, HAS_TOKENS, TOTAL_MS, TOTAL_TOKENS
from conversations.states import Ended, MemoryState

WORDS = 200  # characters of a provider's error

# What a list sorted by a figure leaves out: exchanges where it is unknown, as its index does.
KNOWN: dict[str, Any] = {"cost": {"cost__isnull": False}, "total_tokens": HAS_TOKENS, "total_ms": HAS_MS}


class ExchangeList(Sorted):
    """Sorted by time, or by a figure from its index; steps of one tool loop are told apart where it is by time."""

    def get_ordering(self, request: HttpRequest, queryset: Any) -> list[Any]:
        first, *rest = super().get_ordering(request, queryset)
        if str(first).lstrip("-") not in KNOWN:
            return [first, *rest]
        return [first, "-pk" if str(first).startswith("-") else "pk"]  # as the index

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> Any:
        rows = super().get_queryset(request, exclude_parameters)
        known = KNOWN.get(str(rows.query.order_by[0]).lstrip("-"))
        if known is None:
            return rows
        return rows.filter(**known) if isinstance(known, dict) else rows.filter(known)

    @property
    def files(self) -> list[tuple[str, str]]:
        """What the list is as a file: names and addresses."""
        where = reverse("admin:conversations_exchange_export")
        return [
            (name, where + address(self, {"format": form})) for name, form in (("CSV", "csv"), ("JSON Lines", "jsonl"))
        ]

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        by_time = str(self.queryset.query.order_by[0]) == "-created"
        self.steps = steps_of(self.result_list) if by_time else {}
        for exchange in self.result_list:
            exchange.steps = self.steps.get(exchange.pk)


@admin.register(Exchange)
class ExchangeAdmin(ReadOnly):
    list_display = ("at", "asked", "scope", "how", "model", "memory_shown", "tokens", "costs", "took")
    list_display_links = ("at", "asked")
    list_select_related = ("instance__partition",)
    list_filter = (
        InPartition, PartitionName, InInstance, Days, Provider, ModelName, HowItEnded, Status, Memory, RuleName,
        KeyName,
    )  # fmt: skip
    counted = ("provider", "model", "ended", "status", "memory", "rule", "key_id")
    search_fields = ("trace_id",)
    search_help_text = "A trace id, a model, a provider, or words of the question"
    largest_first = True
    sortable_by = ("at", "tokens", "costs", "took")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[Sorted]:
        return ExchangeList

    def get_urls(self) -> list[URLPattern]:
        where = path("export/", self.admin_site.admin_view(self.export), name="conversations_exchange_export")
        return [where, *super().get_urls()]

    def export(self, request: HttpRequest) -> StreamingHttpResponse:
        """What the list shows by the same address, as a file: `&format=csv` or `jsonl`."""
        require(request, "view_exchange")
        return download(request, self)

    def get_list_display(self, request: HttpRequest) -> tuple[str, ...]:
        """Only users who may view messages see the question."""
        reads = may(request, "view_message")
        return self.list_display if reads else tuple(name for name in self.list_display if name != "asked")

    def get_list_filter(self, request: HttpRequest) -> tuple[Any, ...]:
        return tuple(each for each in self.list_filter if each is not KeyName or may_see_keys(request))

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request)
        rows = rows.annotate(
            question_text=Left("question__content", SNIPPET),
            said=Left("error", WORDS),
            total_tokens=TOTAL_TOKENS,
            total_ms=TOTAL_MS,
        )
        return rows.defer("prompts", "parameters", "request_ids", "left_out", "usage", "error")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        return words.exchanges(request, queryset, search_term), False

    @admin.display(description="when", ordering="-created")
    def at(self, exchange: Exchange) -> SafeString:
        return tags.clock(exchange.created)

    @admin.display(description="question")
    def asked(self, exchange: Any) -> SafeString:
        return tags.safe_inline(exchange.question_text or "(no user message)", 90)

    @admin.display(description="scope")
    def scope(self, exchange: Exchange) -> SafeString:
        return scope_link(exchange.instance)

    @admin.display(description="ended")
    def how(self, exchange: Any) -> SafeString:
        return format_html("{}{}{}", ended_badge(exchange), _why(exchange), _folded(exchange.steps))

    @admin.display(description="memories")
    def memory_shown(self, exchange: Exchange) -> str:
        if exchange.memory == MemoryState.ON:
            return str(exchange.memories or tags.NONE)
        return exchange.rule or exchange.memory

    @admin.display(description="tokens", ordering="-total_tokens")
    def tokens(self, exchange: Exchange) -> str:
        return f"{tags.compact(exchange.input_tokens)} → {tags.compact(exchange.output_tokens)}"

    @admin.display(description="cost", ordering="-cost")
    def costs(self, exchange: Exchange) -> str:
        return tags.money(exchange.cost)

    @admin.display(description="took", ordering="-total_ms")
    def took(self, exchange: Exchange) -> str:
        return tags.milliseconds(exchange.timings.get("total"))

    def page(self, request: HttpRequest, found: Any) -> HttpResponse:
        return exchange_page.show(request, found)


def _why(exchange: Any) -> SafeString:
    """Of an exchange that failed: its status, and the error in the provider's own words."""
    if exchange.ended == Ended.ANSWERED or not (exchange.status or exchange.said):
        return SafeString()
    return format_html(
        ' <small class="why-failed">{} {}</small>', exchange.status or "", tags.safe_inline(exchange.said, 110)
    )


def _folded(steps: Steps | None) -> SafeString:
    """On the last step of a tool loop, the button that shows the others; on the others, whose they are."""
    if steps is None:
        return SafeString()
    if not steps.is_last:
        return format_html('<i hidden data-step-of="{}"></i>', steps.of)
    cost = f", {tags.money(steps.cost)}" if steps.cost else ""
    return format_html(
        ' <button type="button" class="button quiet small" hidden data-steps="{}" aria-expanded="false">'
        "{} steps{}</button>",
        steps.of,
        steps.count,
        cost,
    )
