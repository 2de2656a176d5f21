"""The filters beside the lists. None asks the whole table for its values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from access.usage import ids_of
from console import safe_text
from console.visible import instances_of, visible
from conversations.models import Instance, Partition
from conversations.numbers import whole_number
from conversations.states import Ended, MemoryState


class Fixed(admin.SimpleListFilter):
    """A filter with known values: Django would scan the whole table for them."""

    values: tuple[str, ...] = ()

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(value, value) for value in self.values]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(**{str(self.parameter_name): self.value()}) if self.value() else queryset


class Role(Fixed):
    title = parameter_name = "role"
    values = ("user", "assistant", "tool")


class Wish(admin.SimpleListFilter):
    title, parameter_name = "standing wishes", "wish"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("1", "only")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(wish=True) if self.value() == "1" else queryset


class Memory(Fixed):
    title = parameter_name = "memory"
    values = tuple(state.value for state in MemoryState)


class Typed(admin.SimpleListFilter):
    """A filter whose value is typed: its values are many, and no query lists them."""

    template = "admin/reservoir/typed_filter.html"
    example = ""

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("", "")]  # Django hides a filter without any

    def choices(self, changelist: Any) -> Iterator[Any]:
        name = str(self.parameter_name)
        others = [pair for pair in changelist.get_filters_params().items() if pair[0] != name]
        searched = [("q", changelist.query)] if changelist.query else []
        told = [(key, value[-1] if isinstance(value, list) else value) for key, value in others]
        yield {"name": name, "value": self.value() or "", "example": self.example, "others": told + searched}

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = (self.value() or "").strip().replace("\x00", "")
        return self.narrowed(queryset, value) if value else queryset

    def narrowed(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        """The rows with this value."""
        return queryset.filter(**{str(self.parameter_name): value})


class Provider(Typed):
    title = parameter_name = "provider"
    example = "openai"


class ModelName(Typed):
    title = parameter_name = "model"
    example = "gpt-4o"


class RuleName(Typed):
    title = parameter_name = "rule"
    example = "any"

    def narrowed(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        """Those that this rule held for; "any": all that a rule held for."""
        ruled = queryset.exclude(rule="")
        return ruled if value == "any" else ruled.filter(rule=value)


class Status(Typed):
    title = parameter_name = "status"
    example = "429 or 5xx"

    def narrowed(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        """Those with this status, or with one of a hundred ("5xx"); none for anything else."""
        if (number := whole_number(value, most=999)) is not None:
            found = queryset.filter(status=number)
        elif len(value) == 3 and value[0].isdecimal() and value[1:].lower() == "xx":
            found = queryset.filter(status__gte=int(value[0]) * 100, status__lt=int(value[0]) * 100 + 100)
        else:
            return queryset.none()
        # Failures have an index of their own, successes are most of the table anyway.
        return found.exclude(ended=Ended.ANSWERED) if value[0] in "45" else found


class KeyName(Typed):
    title, parameter_name = "access key", "key"
    example = "a name or an id"

    def narrowed(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        """Those that came with a key of this name or public id, also one that is revoked."""
        ids = ids_of(value)
        # Tells PostgreSQL that the index of keys holds them all.
        return queryset.filter(key_id__in=ids).exclude(key_id="") if ids else queryset.none()


class PartitionName(Typed):
    title, parameter_name = "partition", "partition_name"
    example = "a name"

    def narrowed(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        """Those of the partition of this name."""
        pk = Partition.objects.filter(name=value).values_list("pk", flat=True).first()
        return queryset.none() if pk is None else queryset.filter(instance__in=instances_of([pk]))


class Place(admin.SimpleListFilter):
    """A partition or a conversation named by a link. Users can remove the filter, not choose among thousands.

    Nothing is listed if it does not exist or the user may not see it.
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
