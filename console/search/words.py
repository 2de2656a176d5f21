"""Search by words, in the lists."""

from __future__ import annotations

import uuid
from typing import Any

from django.db.models import Q, QuerySet
from django.http import HttpRequest

from console.search.place import asked_place
from console.visible import may, require, visible
from conversations.models import Message
from conversations.querysets import MODEL_NAME, PROVIDER_NAME
from conversations.usage import provider_models

MOST_QUESTIONS = 200


def by_words(messages: QuerySet[Any], term: str) -> QuerySet[Any]:
    """Those of the messages that hold the words; all of them for an empty term."""
    return messages.filter(pk__in=Message.objects.matching(term).values("pk")) if term.strip() else messages


def exchanges(request: HttpRequest, rows: Any, term: str) -> Any:
    """The exchange with this trace id; or those of the providers and models whose names hold the text, and those whose
    question holds the words: of the latest such questions, in the partition, the conversation and the days that the
    address names.
    """
    term = term.strip().replace("\x00", "")
    if not term:
        return rows
    try:
        return rows.filter(trace_id=uuid.UUID(term))
    except ValueError:
        named = _named(term)
    if named and not may(request, "view_message"):
        return rows.alias(provider_name=PROVIDER_NAME, model_name=MODEL_NAME).filter(named)
    require(request, "view_message")
    rows_here = asked_place(request).messages(visible(request, Message.objects.all()))
    questions = rows_here.filter(role="user").matching(term)
    latest = questions.order_by("-pk").values_list("pk", flat=True)
    asked = Q(question__in=list(latest[:MOST_QUESTIONS]))
    return rows.alias(provider_name=PROVIDER_NAME, model_name=MODEL_NAME).filter(asked | named if named else asked)


def _named(term: str) -> Q | None:
    """The condition that a provider's or a model's name holds the text; None if none does."""
    pairs, text = provider_models(), term.lower()
    providers = {provider for provider, _ in pairs if text in provider.lower()}
    models = {model for _, model in pairs if text in model.lower()}
    found = Q()
    if providers:
        found |= Q(provider_name__in=sorted(providers))
    if models:
        found |= Q(model_name__in=sorted(models))
    return found or None
