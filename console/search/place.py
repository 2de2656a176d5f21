"""Where and when a page searches: a conversation or a partition, and days, from the address of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any, NamedTuple
from urllib.parse import urlencode

from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.dateparse import parse_date

from console.visible import instances_of, visible
from conversations.models import Instance, Partition
from conversations.numbers import whole_number

MOST_OFFERED = 1_000  # partitions to choose from


@dataclass(frozen=True, slots=True, kw_only=True)
class Days:
    """Days, both inclusive, in UTC; None has no end."""

    first: date | None = None
    last: date | None = None

    @property
    def since(self) -> datetime | None:
        """When the first day begins."""
        return _midnight(self.first) if self.first else None

    @property
    def before(self) -> datetime | None:
        """When the last day has ended."""
        return _midnight(self.last + timedelta(days=1)) if self.last else None


class Span(NamedTuple):
    """Days that people ask for, under their name."""

    name: str
    first: date
    last: date


@dataclass(frozen=True, slots=True, kw_only=True)
class Place(Days):
    """A conversation with its partition, a partition, or everything (both None); and days."""

    instance: Instance | None = None
    partition: Partition | None = None
    problem: str = ""  # what the address asked for and the user cannot have

    @property
    def name(self) -> str:
        place = self.instance or self.partition
        return place.name if place else ""

    def messages(self, rows: Any) -> Any:
        """Those of the messages that are in this place and were said on these days."""
        if self.instance:
            rows = rows.filter(instance=self.instance)
        elif self.partition:
            rows = rows.filter(instance__in=instances_of([self.partition.pk]))
        return rows.between(self.since, self.before)

    def address(self, **more: str) -> str:
        """The part of an address that asks for this place again."""
        given = {
            "instance": str(self.instance.pk) if self.instance else "",
            "partition": str(self.partition.pk) if self.partition and not self.instance else "",
            "first": str(self.first or ""),
            "last": str(self.last or ""),
        }
        return urlencode({key: value for key, value in (given | more).items() if value})


def asked_place(request: HttpRequest) -> Place:
    """The place that the address names by ids, or by a partition's name in `in`. What the user may not see is nothing
    to be found, and is told in `problem`.
    """
    instance, problem = _instance(request), ""
    partition = instance.partition if instance else _partition(request)
    name = request.GET.get("in", "").replace("\x00", "")
    if name and (partition is None or name != partition.name):
        instance, partition = None, visible(request, Partition.objects.filter(name=name)).first()
        if partition is None:
            problem = f"There is no partition {name[:100]!r}: pick one from the list."
    elif name == "" and "in" in request.GET:  # the field was emptied
        instance = partition = None
    days = asked_days(request)
    if days.first and days.last and days.first > days.last:
        problem = "The first day is after the last one."
    return Place(instance=instance, partition=partition, first=days.first, last=days.last, problem=problem)


def asked_days(request: HttpRequest) -> Days:
    """The days that the address names in `first` and `last`; what is no date is nothing."""
    return Days(first=_day(request.GET.get("first", "")), last=_day(request.GET.get("last", "")))


def spans(today: date) -> list[Span]:
    """The days that people ask for most. A week begins on Monday."""
    day = timedelta(days=1)
    monday = today - today.weekday() * day
    return [
        Span("Today", today, today),
        Span("Yesterday", today - day, today - day),
        Span("Last 7 days", today - 6 * day, today),
        Span("Last week", monday - 7 * day, monday - day),
        Span("Last 30 days", today - 29 * day, today),
    ]


def offered(request: HttpRequest) -> Sequence[str]:
    """The names of partitions to choose from; of the latest, if there are too many."""
    rows: QuerySet[Any] = visible(request, Partition.objects.all())
    latest = rows.order_by("-pk").values_list("name", flat=True)
    return sorted(latest[:MOST_OFFERED])


def _instance(request: HttpRequest) -> Instance | None:
    given = whole_number(request.GET.get("instance", ""))
    rows = visible(request, Instance.objects.select_related("partition"))
    return rows.filter(pk=given).first() if given is not None else None


def _partition(request: HttpRequest) -> Partition | None:
    given = whole_number(request.GET.get("partition", ""))
    return visible(request, Partition.objects.filter(pk=given)).first() if given is not None else None


def _day(given: str) -> date | None:
    try:
        day = parse_date(given)
    except ValueError:  # as 31 February
        return None
    return day if day and 1 < day.year < 9999 else None  # the ends of the calendar have no day before or after


def _midnight(day: date) -> datetime:
    return timezone.make_aware(datetime.combine(day, time.min))
