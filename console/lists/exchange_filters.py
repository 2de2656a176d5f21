"""The filters of the list of exchanges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest

from access.usage import ids_of, titles
from console.lists.filters import Menu
from console.visible import allowed_partitions
from conversations.numbers import whole_number
from conversations.states import Ended, MemoryState
from conversations.usage import provider_models

FAILURES = "failures"  # of the provider, whichever way
IMPORTED = "imported"  # exchanges that came without a provider


class HowItEnded(Menu):
    title, parameter_name, counted = "ended", "ended__exact", "ended"

    def picks(self, changelist: Any) -> Sequence[tuple[str, str]]:
        return [(FAILURES, "failed or cut"), *((str(value), str(label)) for value, label in Ended.choices)]

    def narrowed(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        return queryset.filter(ended__in=(Ended.FAILED, Ended.CUT) if value == FAILURES else (value,))


class Memory(Menu):
    title = parameter_name = "memory"

    def picks(self, changelist: Any) -> Sequence[tuple[str, str]]:
        return [(state.value, state.value) for state in MemoryState]


class Named(Menu):
    """A name that exchanges have: of all partitions for users who may see all, else of the listed ones."""

    which = 0  # of a pair of provider and model

    def picks(self, changelist: Any) -> Sequence[tuple[str, str]]:
        listed = {str(value) for value in self.counts(changelist)}
        if allowed_partitions(self.request) is None:
            listed |= {pair[self.which] for pair in names(self.request)}
        return [(name, name) for name in sorted(listed - {""})]


class Provider(Named):
    title = parameter_name = "provider"
    example = "openai"

    def picks(self, changelist: Any) -> Sequence[tuple[str, str]]:
        bare = [(IMPORTED, "none: imported")] if "" in self.counts(changelist) else []
        return [*super().picks(changelist), *bare]

    def counts(self, changelist: Any) -> dict[Any, int]:
        found = super().counts(changelist)
        return found | {IMPORTED: found[""]} if "" in found else found

    def narrowed(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        return queryset.by_provider("" if value == IMPORTED else value)  # type: ignore[attr-defined, no-any-return]


class ModelName(Named):
    title = parameter_name = "model"
    example = "gpt-4o"
    which = 1

    def narrowed(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        return queryset.by_model(value)  # type: ignore[attr-defined, no-any-return]


class KeyName(Menu):
    title, parameter_name, counted = "access key", "key", "key_id"
    example = "a name or an id"

    def picks(self, changelist: Any) -> Sequence[tuple[str, str]]:
        listed = [one for one in self.counts(changelist) if one]
        return sorted(titles(listed).items(), key=lambda pair: pair[1]) if listed else []

    def narrowed(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        """Those that came with a key of this name or public id, also one that is revoked."""
        ids = ids_of(value)
        # Tells PostgreSQL that the index of keys holds them all.
        return queryset.filter(key_id__in=ids).exclude(key_id="") if ids else queryset.none()


class RuleName(Menu):
    title = parameter_name = "rule"
    example = "any"

    def picks(self, changelist: Any) -> Sequence[tuple[str, str]]:
        return [("any", "any"), *super().picks(changelist)]

    def narrowed(self, queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
        """Those that this rule held for; "any": all that a rule held for."""
        ruled = queryset.exclude(rule="")
        return ruled if value == "any" else ruled.filter(rule=value)


class Status(Menu):
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


def names(request: HttpRequest) -> list[tuple[str, str]]:
    """The providers and models that exchanges name. One query a request."""
    if not hasattr(request, "reservoir_names"):
        request.reservoir_names = provider_models()  # type: ignore[attr-defined]
    return request.reservoir_names  # type: ignore[attr-defined, no-any-return]
