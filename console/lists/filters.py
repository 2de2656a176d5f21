"""The filters above the lists: menus of values, each with how many of the listed rows have it. None asks the whole
table for its values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from console import safe_text
from console.search.place import offered
from console.visible import instances_of, visible
from conversations.models import Instance, Partition
from conversations.numbers import whole_number

PAGE = "p"  # as Django names it in an address


class Menu(admin.SimpleListFilter):
    """Values to pick from, and a field to type one if there is an `example`. `parameter_name` is also the name of what
    is counted (see lists/base.py), unless `counted` names it.
    """

    template = "admin/reservoir/filter.html"
    example = ""
    counted = ""

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("", "")]  # Django hides a filter without any

    def picks(self, changelist: Any) -> Sequence[tuple[str, str]]:
        """The values to pick from, and what they are called: those of the listed rows."""
        return [(str(value), str(value)) for value in sorted(self.counts(changelist)) if value]

    def options(self) -> Sequence[str]:
        """What the browser offers while one types."""
        return ()

    def counts(self, changelist: Any) -> dict[Any, int]:
        """How many of the listed rows have each value."""
        found: dict[Any, int] = changelist.counts.get(self.counted or self.parameter_name, {})
        return found

    def choices(self, changelist: Any) -> Iterator[Any]:
        name, value = str(self.parameter_name), self.value() or ""
        counts = {str(key): count for key, count in self.counts(changelist).items()}
        picks = list(self.picks(changelist))
        if value and value not in dict(picks):
            picks.insert(0, (value, value))
        yield {
            "name": name,
            "value": value,
            "chosen": safe_text.shown(dict(picks)[value]) if value else "",
            "all": address(changelist, {name: ""}),
            "picks": [
                {
                    "label": safe_text.shown(label),
                    "count": counts.get(each),
                    "chosen": each == value,
                    "address": address(changelist, {name: each}),
                }
                for each, label in picks
            ],
            "example": self.example,
            "options": self.options() if self.example else (),
            "others": kept(changelist, without=(name,)),
            "cut": changelist.counts_are_cut,
        }

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = (self.value() or "").strip().replace("\x00", "")
        return self.narrowed(queryset, value) if value else queryset

    def narrowed(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        """The rows with this value."""
        return queryset.filter(**{str(self.parameter_name): value})


def kept(changelist: Any, *, without: Sequence[str]) -> list[tuple[str, str]]:
    """What a form keeps of the address: the other filters, the search, the order."""
    asked = changelist.params.items()
    return [(key, str(value)) for key, value in asked if key not in (*without, PAGE)]


def address(changelist: Any, changed: Mapping[str, str]) -> str:
    """The address of the first page of the list with these values; empty ones are left out. (Django's own method takes
    out all names that begin like one.)
    """
    asked = {**dict(kept(changelist, without=())), **changed}
    return "?" + urlencode({name: value for name, value in asked.items() if value})


class Role(Menu):
    title = parameter_name = "role"

    def picks(self, changelist: Any) -> Sequence[tuple[str, str]]:
        return [(role, role) for role in ("user", "assistant", "tool")]


class Wish(Menu):
    title, parameter_name = "standing wishes", "wish"

    def picks(self, changelist: Any) -> Sequence[tuple[str, str]]:
        return [("1", "only these")]

    def narrowed(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        return queryset.filter(wish=True) if value == "1" else queryset


class PartitionName(Menu):
    title, parameter_name = "partition", "partition_name"
    example = "pick or type"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        by_link = "partition" in request.GET or "instance" in request.GET
        return [] if by_link else [("", "")]

    def options(self) -> Sequence[str]:
        return offered(self.request)

    def narrowed(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        """Those of the partition of this name."""
        pk = visible(self.request, Partition.objects.filter(name=value)).values_list("pk", flat=True).first()
        return queryset.none() if pk is None else in_partition(queryset, pk)


class Place(Menu):
    """A partition or a conversation named by a link. Users can remove the filter, not choose among thousands.

    Nothing is listed if it does not exist or the user may not see it.
    """

    model: type[Any]

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        given = request.GET.get(str(self.parameter_name), "")
        pk = whole_number(given) or 0
        found = visible(request, self.model.objects.filter(pk=pk)).first() if pk else None
        self.found = found.pk if found else None
        self.named = found.name if found else "no longer there"
        return [("", "")] if given else []

    def picks(self, changelist: Any) -> Sequence[tuple[str, str]]:
        return [(self.value() or "", self.named)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if not self.value():
            return queryset
        return queryset.none() if self.found is None else self.within(queryset, self.found)

    def within(self, queryset: QuerySet[Any], pk: int) -> QuerySet[Any]:
        """The rows in this place."""
        raise NotImplementedError


class InPartition(Place):
    title = parameter_name = "partition"
    model = Partition

    def within(self, queryset: QuerySet[Any], pk: int) -> QuerySet[Any]:
        return in_partition(queryset, pk)


class InInstance(Place):
    title, parameter_name = "conversation", "instance"
    model = Instance

    def within(self, queryset: QuerySet[Any], pk: int) -> QuerySet[Any]:
        return queryset.filter(instance=pk)


def in_partition(queryset: QuerySet[Any], pk: int) -> QuerySet[Any]:
    """The rows of this partition."""
    if queryset.model is Instance:
        return queryset.filter(partition=pk)
    return queryset.filter(instance__in=instances_of([pk]))
