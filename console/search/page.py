"""The page that searches messages by words or by meaning, in one scope or in all that the user may see."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.db import connection
from django.db.models.functions import Left
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import SafeString

from console import safe_text
from console.pages import page, to_instance, to_partition
from console.saved import saved
from console.search.meaning import NEAREST_OF, likeness
from console.search.place import Place, asked_place, offered, spans
from console.visible import require, visible
from conversations.embedders.base import EmbedderError
from conversations.models import Exchange, Message
from conversations.numbers import whole_number

A_PAGE = 30
TEXT = 4_000  # characters of a message that are searched for words to mark


@dataclass(frozen=True, slots=True)
class Found:
    message: Message
    excerpt: SafeString
    likeness: float | None = None


def search_page(request: HttpRequest) -> HttpResponse:
    """Search for words, for a meaning, or for the trace id of an exchange; `?in=`, `?first=` and `?last=` narrow it.

    Results by meaning come with `?compared`, which the page's script requests.
    """
    require(request, "view_message")
    term = request.GET.get("q", "").replace("\x00", " ").strip()[:1000]
    if where := _exchange_with(request, term):
        return HttpResponseRedirect(where)
    place = asked_place(request)
    meaning = request.GET.get("by") == "meaning"
    found: list[Found] = []
    problem, older, later = place.problem, None, ""
    if term and not problem and meaning and "compared" not in request.GET:
        later = f"?{request.GET.urlencode()}&compared=1"
    elif term and not problem and meaning:
        try:
            found = _nearest(request, term, place)
        except EmbedderError as error:
            problem = f"Search by meaning is unavailable: {error}"
    elif term and not problem:
        found, older = _matching(request, term, place)
    instance, partition = place.instance, place.partition
    trail = to_instance(instance) if instance else to_partition(partition) if partition else []
    here = place.address(q=term)
    return page(
        request,
        "search",
        title="Search",
        trail=trail,
        term=term,
        meaning=meaning,
        place=place,
        instance=instance,
        partition=partition,
        partitions=offered(request),
        found=found,
        older=f"?{here}&before={older}" if older else "",
        by_meaning=f"?{here}&by=meaning",
        days=_days(place, term, meaning),
        forget=_forget(place, term) if partition else "",
        later=later,
        saved=saved(request, "search"),
        problem=problem,
        bounded=meaning and instance is None,
        most=NEAREST_OF,
    )


def _days(place: Place, term: str, meaning: bool) -> list[tuple[str, str, bool]]:
    """Spans of days to narrow the search to: their names, their addresses, and whether it is narrowed to them."""
    by = "meaning" if meaning else ""
    days = spans(timezone.now().date())
    return [
        (
            one.name,
            f"?{place.address(q=term, by=by, first=str(one.first), last=str(one.last))}",
            (one.first, one.last) == (place.first, place.last),
        )
        for one in days
    ]


def _forget(place: Place, term: str) -> str:
    """The address of the dry run for all that a search by words finds in a partition."""
    asked = {
        "partition_name": place.partition.name if place.partition else "",
        "instance_name": place.instance.name if place.instance else "",
        "since": str(place.first or ""),
        "before": str(place.last + timedelta(days=1)) if place.last else "",
        "search": term,
    }
    return f"{reverse('admin:prune')}?{urlencode(asked)}"


def _matching(request: HttpRequest, term: str, place: Place) -> tuple[list[Found], int | None]:
    """Messages that hold the words, newest first, and where the next page begins."""
    rows = _rows(request, place).matching(term)
    before = request.GET.get("before", "")
    if (last := whole_number(before)) is not None:
        rows = rows.filter(pk__lt=last)
    messages = list(rows.order_by("-pk")[: A_PAGE + 1])
    stems = _stems(term)
    found = [Found(message, safe_text.excerpt(message.text, stems)) for message in messages[:A_PAGE]]
    return found, messages[A_PAGE - 1].pk if len(messages) > A_PAGE else None


def _nearest(request: HttpRequest, term: str, place: Place) -> list[Found]:
    """The messages closest to the term in meaning, nearest first. Raises EmbedderError."""
    alike = likeness(request, term, place, limit=A_PAGE)
    rows = {message.pk: message for message in _rows(request, place).filter(pk__in=alike)}
    return [Found(rows[pk], safe_text.excerpt(rows[pk].text, ()), alike[pk]) for pk in alike if pk in rows]


def _rows(request: HttpRequest, place: Place) -> Any:
    rows = place.messages(visible(request, Message.objects.select_related("instance__partition")))
    return rows.annotate(text=Left("content", TEXT)).defer("content", "payload", "lexemes", "digest")


def _stems(term: str) -> Sequence[str]:
    """Prefixes of the words that the search finds; shortened, since a stem may change the end of a word."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT tsvector_to_array(to_tsvector(%s::regconfig, %s))", [settings.RESERVOIR_LANGUAGE, term])
        (stems,) = cursor.fetchone() or ([],)
    return [stem[:-1] if len(stem) > 4 else stem for stem in stems]


def _exchange_with(request: HttpRequest, term: str) -> str:
    """The address of the exchange with this trace id."""
    try:
        rows = visible(request, Exchange.objects.filter(trace_id=uuid.UUID(term)))
    except ValueError:
        return ""
    pk = rows.values_list("pk", flat=True).first()
    return reverse("admin:conversations_exchange_change", args=[pk]) if pk else ""
