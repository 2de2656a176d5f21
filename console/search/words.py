"""Search by words, in the lists."""

from __future__ import annotations

import uuid
from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest

from console.search.place import asked_place
from console.visible import require, visible
from conversations.models import Message

MOST_QUESTIONS = 200


def by_words(messages: QuerySet[Any], term: str) -> QuerySet[Any]:
    """Those of the messages that hold the words; all of them for an empty term."""
    return messages.filter(pk__in=Message.objects.matching(term).values("pk")) if term.strip() else messages


def exchanges(request: HttpRequest, rows: QuerySet[Any], term: str) -> QuerySet[Any]:
    """The exchange with this trace id, or those whose question holds the words: of the latest such questions, in the
    partition or the conversation that the address names.
    """
    term = term.strip()
    if not term:
        return rows
    try:
        return rows.filter(trace_id=uuid.UUID(term))
    except ValueError:
        require(request, "view_message")
        rows_here = asked_place(request).messages(visible(request, Message.objects.all()))
        questions = rows_here.filter(role="user").matching(term)
        latest = questions.order_by("-pk").values_list("pk", flat=True)
        return rows.filter(question__in=list(latest[:MOST_QUESTIONS]))
