"""A conversation as a dialogue: one page of messages at a time, grouped by session and topic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, time
from typing import Any

from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.dateparse import parse_date

from console.conversation import vectors
from console.conversation.threads import sessions, threads
from console.pages import page, to_partition
from console.reading import LARGEST_PAYLOAD, Part, parts
from console.visible import require
from console.words import labels
from conversations.models import Instance, Message
from conversations.numbers import whole_number
from conversations.querysets import MessageQuerySet
from conversations.recall.ranking import SESSION_GAP

A_PAGE = 40
HUES = 12


@dataclass(frozen=True, slots=True)
class Said:
    message: Message
    parts: list[Part]


@dataclass(slots=True)
class Topic:
    """Consecutive messages on one topic. `hue` is a class of the style sheet, the same on the map."""

    hue: int
    said: list[Said] = field(default_factory=list)
    label: str = ""


@dataclass(slots=True)
class Session:
    """Messages without a long pause; `continued` if it began on the previous page."""

    begins: datetime
    ends: datetime
    continued: bool = False
    topics: list[Topic] = field(default_factory=list)

    @property
    def count(self) -> int:
        return sum(len(topic.said) for topic in self.topics)


def show(request: HttpRequest, instance: Instance) -> HttpResponse:
    """The page of an instance: the latest messages, or those around the date or message in the address."""
    require(request, "view_message")
    rows = Message.objects.filter(instance=instance)
    messages, earlier, later = _window(rows, request)
    first = rows.order_by("created", "id").values_list("created", flat=True).first()
    return page(
        request,
        "dialogue",
        title=instance.name,
        trail=to_partition(instance.partition),
        instance=instance,
        first=first,
        sessions=_sessions(messages, continued=earlier and bool(messages) and _continues(rows, messages[0])),
        earlier=messages[0].pk if messages and earlier else None,
        later=messages[-1].pk if messages and later else None,
        at=_whole(request.GET.get("at")),
        date=request.GET.get("date", ""),
    )


def hue(message_id: int) -> int:
    """The colour of the topic that begins with this message, from 0 to HUES - 1."""
    return message_id * 5 % HUES


def _window(rows: MessageQuerySet, request: HttpRequest) -> tuple[list[Message], bool, bool]:
    """The messages of a page in order of time, whether earlier ones exist, and whether later ones do."""
    asked = request.GET
    day = parse_date(asked["date"]) if _is_date(asked.get("date")) else None
    if day:
        start = timezone.make_aware(datetime.combine(day, time.min))
        if after := _fetch(rows.filter(created__gte=start), forwards=True, count=A_PAGE):
            return after[:A_PAGE], rows.filter(created__lt=start).exists(), len(after) > A_PAGE
        # A date after the end shows the end.
    for key, forwards in (("before", False), ("after", True)):
        if mark := _mark(rows, asked.get(key)):
            found = _fetch(_beyond(rows, mark, forwards=forwards), forwards=forwards, count=A_PAGE)
            more, shown = len(found) > A_PAGE, found[:A_PAGE]
            return (shown, True, more) if forwards else (shown[::-1], more, True)
    if mark := _mark(rows, asked.get("at")):
        half = A_PAGE // 2
        before = _fetch(_beyond(rows, mark, forwards=False), forwards=False, count=half)
        after = _fetch(_beyond(rows, mark, forwards=True, included=True), forwards=True, count=half)
        return [*before[:half][::-1], *after[:half]], len(before) > half, len(after) > half
    latest = _fetch(rows, forwards=False, count=A_PAGE)
    return latest[:A_PAGE][::-1], len(latest) > A_PAGE, False


def _mark(rows: MessageQuerySet, given: str | None) -> tuple[datetime, int] | None:
    pk = _whole(given)
    return rows.filter(pk=pk).values_list("created", "pk").first() if pk else None


def _beyond(
    rows: MessageQuerySet, mark: tuple[datetime, int], *, forwards: bool, included: bool = False
) -> MessageQuerySet:
    """The messages after (or before) a mark: a range of the index, not an offset."""
    created, pk = mark
    way = "gt" if forwards else "lt"
    tie = f"{way}e" if included else way
    return rows.filter(
        Q(**{f"created__{way}": created}) | Q(created=created, **{f"id__{tie}": pk}), **{f"created__{way}e": created}
    )


def _fetch(rows: MessageQuerySet, *, forwards: bool, count: int) -> list[Any]:
    """Up to one message more than `count`, which shows that more exist."""
    order = ("created", "id") if forwards else ("-created", "-id")
    return list(rows.order_by(*order).with_raw(LARGEST_PAYLOAD)[: count + 1])


def _continues(rows: MessageQuerySet, first: Message) -> bool:
    """Whether the session of a message began with an earlier one."""
    before = _beyond(rows, (first.created, first.pk), forwards=False).order_by("-created", "-id")
    said = before.values_list("created", flat=True).first()
    return said is not None and first.created - said <= SESSION_GAP


def _sessions(messages: Sequence[Any], *, continued: bool) -> list[Session]:
    starts = sessions([message.created for message in messages])
    known = vectors.of_messages([message.pk for message in messages])
    topics = threads(
        [known.get(message.pk) for message in messages],
        begins=[message.role == "user" for message in messages],
        breaks=starts,
    )
    found: list[Session] = []
    for i, message in enumerate(messages):
        if starts[i] == i:
            found.append(Session(message.created, message.created, continued=continued and i == 0))
        if topics[i] == i:
            found[-1].topics.append(Topic(hue(message.pk)))
        found[-1].ends = message.created
        found[-1].topics[-1].said.append(Said(message, parts(message.role, message.content, message.raw)))
    _label([topic for session in found for topic in session.topics])
    return found


def _label(topics: Sequence[Topic]) -> None:
    texts = ["\n".join(said.message.content[:2000] for said in topic.said) for topic in topics]
    for topic, label in zip(topics, labels(texts), strict=True):
        topic.label = label


def _whole(given: str | None) -> int | None:
    return whole_number(given)


def _is_date(given: str | None) -> bool:
    try:
        return bool(given and parse_date(given))
    except ValueError:
        return False
