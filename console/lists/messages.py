"""The list of messages."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Case, QuerySet, TextField, Value, When
from django.db.models.functions import Left
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from console import message_page, tags
from console.lists.base import ReadOnly
from console.lists.columns import CALLS, SNIPPET, scope_link, without_words
from console.lists.days import Days
from console.lists.filters import InInstance, InPartition, PartitionName, Role, Wish
from console.search import words
from conversations.models import Message


@admin.register(Message)
class MessageAdmin(ReadOnly):
    list_display = ("at", "said_by", "beginning", "scope", "size")
    list_display_links = ("at", "beginning")
    list_select_related = ("instance__partition",)
    list_filter = (InPartition, PartitionName, InInstance, Role, Wish, Days)
    counted = ("role",)
    search_fields = ("content",)
    search_help_text = 'Words of the message; "quotes" for a phrase, -word to leave out'
    sortable_by = ()

    def get_ordering(self, request: HttpRequest) -> tuple[str, ...]:
        return ("-created", "-id") if "instance" in request.GET else ("-id",)  # each order has an index

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        beginning = Case(When(content="", then=Left("payload", CALLS)), default=Value(""), output_field=TextField())
        rows: QuerySet[Any] = (
            super().get_queryset(request).annotate(snippet=Left("content", SNIPPET), wordless=beginning)
        )
        return rows.defer("content", "payload", "lexemes", "digest")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        return words.by_words(queryset, search_term), False

    @admin.display(description="when")
    def at(self, message: Message) -> SafeString:
        return tags.clock(message.created)

    @admin.display(description="role")
    def said_by(self, message: Message) -> SafeString:
        name = tags.bdi(message.name or message.role)
        return format_html('<span class="role {}">{}</span>', message.role, name)

    @admin.display(description="message")
    def beginning(self, message: Any) -> SafeString:
        return tags.safe_inline(message.snippet or without_words(message.wordless), 120)

    @admin.display(description="scope")
    def scope(self, message: Message) -> SafeString:
        return scope_link(message.instance)

    @admin.display(description="tokens")
    def size(self, message: Message) -> str:
        return tags.compact(message.tokens)

    def page(self, request: HttpRequest, found: Any) -> HttpResponse:
        return message_page.show(request, found)
