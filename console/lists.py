"""The lists: partitions, instances, exchanges, messages. Read-only, searchable, and never counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.admin.views.main import PAGE_VAR, ChangeList
from django.core.exceptions import PermissionDenied
from django.db.models import Count, Max, Min, QuerySet, Sum
from django.db.models.functions import Coalesce, Left
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from console import dialogue, exchange_page, message_page, partition_page, safe_text, searching, tags
from console.paging import UncountedPaginator
from console.visible import instances_of, may, visible
from conversations.models import Exchange, Instance, Message, Partition
from conversations.numbers import whole_number

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin

SNIPPET = 200  # characters of a text that a list fetches


class Fixed(admin.SimpleListFilter):
    """A filter whose values are known: Django would ask the whole table for them."""

    values: tuple[str, ...] = ()

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(value, value) for value in self.values]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(**{str(self.parameter_name): self.value()}) if self.value() else queryset


class Role(Fixed):
    title = parameter_name = "role"
    values = ("user", "assistant", "tool")


class Memory(Fixed):
    title = parameter_name = "memory"
    values = ("on", "off", "degraded")


class Place(admin.SimpleListFilter):
    """A partition or a conversation that a link named; to be taken off again, not to be chosen among thousands.

    Of one that is gone, or that the user may not see, there is nothing.
    """

    model: type[Any]

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        given = request.GET.get(str(self.parameter_name), "")
        pk = whole_number(given) or 0
        found = visible(request, self.model.objects.filter(pk=pk)).first() if pk else None
        self.found = found.pk if found else None
        return [(given, safe_text.shown(found.name) if found else "no longer there")] if given else []


class InPartition(Place):
    title = parameter_name = "partition"
    model = Partition

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if not self.value():
            return queryset
        if self.found is None:
            return queryset.none()
        if queryset.model is Instance:
            return queryset.filter(partition=self.found)
        return queryset.filter(instance__in=instances_of([self.found]))


class InInstance(Place):
    title, parameter_name = "conversation", "instance"
    model = Instance

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if not self.value():
            return queryset
        return queryset.none() if self.found is None else queryset.filter(instance=self.found)


class Sorted(ChangeList):
    """Sorts by the columns that offer it. Django takes any from the address, also those that no index serves."""

    def get_ordering_field(self, field_name: Any) -> Any:
        return super().get_ordering_field(field_name) if field_name in (self.sortable_by or ()) else None


class ReadOnly(ModelAdmin):
    """A list of what the user may see. Nothing is added, changed or deleted here; forgetting is prune.py's."""

    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    paginator = UncountedPaginator
    list_per_page = 50
    list_max_show_all = 0
    actions = None

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return visible(request, super().get_queryset(request))

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return Sorted

    def get_paginator(self, request: HttpRequest, queryset: Any, per_page: int, *args: Any, **kwargs: Any) -> Any:
        paginator: Any = super().get_paginator(request, queryset, per_page, *args, **kwargs)
        asked = request.GET.get(PAGE_VAR, "1")
        page = whole_number(asked, most=99_999)
        paginator.page_asked_for = 1 if page is None else page
        return paginator

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        title = {"title": str(self.model._meta.verbose_name_plural).capitalize()}
        return super().changelist_view(request, title | (extra_context or {}))

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        found = self.get_object(request, object_id)
        if found is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)  # type: ignore[attr-defined, no-any-return]
        if not self.has_view_permission(request, found):
            raise PermissionDenied
        if left := found.get_deferred_fields():  # what a list does without, at once
            found.refresh_from_db(fields=left)
        return self.page(request, found)

    def page(self, request: HttpRequest, found: Any) -> HttpResponse:
        """What is shown of one row."""
        raise NotImplementedError


@admin.register(Partition)
class PartitionAdmin(ReadOnly):
    list_display = ("called", "instances", "messages", "exchanges", "first", "last")
    list_display_links = ("called",)
    search_fields = ("name",)
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

    @admin.display(description="instances")
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


@admin.register(Instance)
class InstanceAdmin(ReadOnly):
    list_display = ("called", "in_partition", "messages", "exchanges", "first", "last")
    list_display_links = ("called",)
    list_select_related = ("partition",)
    search_fields = ("name", "partition__name")
    list_filter = (InPartition,)
    ordering = ("-last_active",)
    sortable_by = ("called", "messages", "last")

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        return super().changelist_view(request, {"title": "Conversations"})

    @admin.display(description="instance", ordering="name")
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


def scope_link(instance: Instance) -> SafeString:
    """partition / instance, as a link to the conversation."""
    url = reverse("admin:conversations_instance_change", args=[instance.pk])
    names = tags.bdi(instance.partition.name), tags.bdi(instance.name)
    return format_html('<a href="{}">{} <span class="quiet">/</span> {}</a>', url, *names)


def ended_badge(exchange: Exchange) -> SafeString:
    """How an exchange ended, in a word and a colour."""
    return format_html('<span class="badge {}">{}</span>', exchange.ended, exchange.get_ended_display())


@admin.register(Exchange)
class ExchangeAdmin(ReadOnly):
    list_display = ("at", "asked", "scope", "how", "model", "memory_shown", "tokens", "costs", "took")
    list_display_links = ("at", "asked")
    list_select_related = ("instance__partition",)
    list_filter = (InPartition, InInstance, "ended", Memory, "created")
    search_fields = ("trace_id",)
    search_help_text = "Trace id, or words of the question (the latest that have them)"
    sortable_by = ("at",)

    def get_list_display(self, request: HttpRequest) -> tuple[str, ...]:
        """What was asked is for those who may read messages."""
        reads = may(request, "view_message")
        return self.list_display if reads else tuple(name for name in self.list_display if name != "asked")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request).annotate(question_text=Left("question__content", SNIPPET))
        return rows.defer("prompts", "parameters", "request_ids", "left_out", "usage", "error")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        return searching.exchanges(request, queryset, search_term), False

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
        return str(exchange.memories or tags.NONE) if exchange.memory == "on" else exchange.memory

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


@admin.register(Message)
class MessageAdmin(ReadOnly):
    list_display = ("at", "said_by", "beginning", "scope", "size")
    list_display_links = ("at", "beginning")
    list_select_related = ("instance__partition",)
    list_filter = (InPartition, InInstance, Role, "created")
    search_fields = ("content",)
    search_help_text = 'Words of the message; "quotes" for a phrase, -word to leave out'
    sortable_by = ()

    def get_ordering(self, request: HttpRequest) -> tuple[str, ...]:
        return ("-created", "-id") if "instance" in request.GET else ("-id",)  # each as an index has it

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request).annotate(snippet=Left("content", SNIPPET))
        return rows.defer("content", "payload", "lexemes", "digest")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        return searching.by_words(queryset, search_term), False

    @admin.display(description="when")
    def at(self, message: Message) -> SafeString:
        return tags.clock(message.created)

    @admin.display(description="role")
    def said_by(self, message: Message) -> SafeString:
        name = tags.bdi(message.name or message.role)
        return format_html('<span class="role {}">{}</span>', message.role, name)

    @admin.display(description="message")
    def beginning(self, message: Any) -> SafeString:
        return tags.safe_inline(message.snippet or "(no text)", 120)

    @admin.display(description="scope")
    def scope(self, message: Message) -> SafeString:
        return scope_link(message.instance)

    @admin.display(description="tokens")
    def size(self, message: Message) -> str:
        return tags.compact(message.tokens)

    def page(self, request: HttpRequest, found: Any) -> HttpResponse:
        return message_page.show(request, found)
