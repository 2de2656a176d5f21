"""One message: all that is kept of it, and where it was shown again."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse

from conversations.admin import safe_text
from conversations.admin.pages import page, to_instance
from conversations.admin.reading import parts, pretty
from conversations.admin.visible import visible
from conversations.models import Embedding, Exchange, Message

MOST_EXCHANGES = 20
LOOKED_THROUGH = 500  # ledgers, of the latest exchanges


def show(request: HttpRequest, message: Message) -> HttpResponse:
    """The page of a message."""
    latest = Exchange.objects.filter(instance=message.instance_id).values("pk")[:LOOKED_THROUGH]
    shown_in = Exchange.objects.filter(pk__in=list(latest.values_list("pk", flat=True)))
    shown_in = shown_in.filter(ledger__message_ids__contains=[message.pk])
    pieces = (
        Embedding.objects.filter(message=message).select_related("model").defer("vector").order_by("model", "start")
    )
    return page(
        request,
        "message",
        title=f"Message {message.pk}",
        trail=to_instance(message.instance),
        message=message,
        instance=message.instance,
        exchange=message.exchange,
        parts=parts(message.role, message.content, message.payload),
        payload=safe_text.shown(pretty(message.payload)),
        size=len(message.payload.encode(errors="replace")),
        looked_through=LOOKED_THROUGH,
        pieces=[(piece, message.content[piece.start : piece.end]) for piece in pieces.order_by("model", "start")],
        shown_in=list(
            visible(request, shown_in)
            .select_related("question")
            .only("created", "model", "question__content")
            .order_by("-created")[:MOST_EXCHANGES]
        ),
    )
