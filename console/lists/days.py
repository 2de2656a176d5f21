"""The filter of lists by days: spans that people ask for, or any two dates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from console.lists.filters import address, kept
from console.search.place import asked_days, spans

NAMES = ("first", "last")


class Days(admin.ListFilter):
    """Rows of the days from `?first=` to `?last=`, both included, in UTC."""

    title, template = "days", "admin/reservoir/days.html"
    parameter_names = NAMES

    def __init__(self, request: HttpRequest, params: Any, model: Any, model_admin: Any) -> None:
        super().__init__(request, params, model, model_admin)
        for name in NAMES:
            if name in params:
                self.used_parameters[name] = params.pop(name)[-1]
        self.days = asked_days(request)

    def has_output(self) -> bool:
        return True

    def expected_parameters(self) -> list[str | None]:
        return list(NAMES)

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.days.since:
            queryset = queryset.filter(created__gte=self.days.since)
        return queryset.filter(created__lt=self.days.before) if self.days.before else queryset

    def choices(self, changelist: Any) -> Iterator[Any]:
        first, last = self.days.first, self.days.last
        named = {(one.first, one.last): one.name for one in spans(timezone.now().date())}
        chosen = named.get((first, last)) if first and last else None
        yield {
            "first": first,
            "last": last,
            "chosen": chosen or (f"{first or '…'} to {last or '…'}" if first or last else ""),
            "all": address(changelist, dict.fromkeys(NAMES, "")),
            "picks": [
                {
                    "label": name,
                    "chosen": name == chosen,
                    "address": address(changelist, {"first": str(since), "last": str(until)}),
                }
                for (since, until), name in named.items()
            ],
            "others": kept(changelist, without=NAMES),
        }
