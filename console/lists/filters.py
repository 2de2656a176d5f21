"""The filters beside the lists. None asks the whole table for its values."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from console import safe_text
from console.visible import instances_of, visible
from conversations.models import Instance, Partition
from conversations.numbers import whole_number
from conversations.states import MemoryState


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
