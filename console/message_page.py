"""One message: everything stored with it, and the exchanges that showed it again."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse

from console import safe_text
from console.pages import page, to_instance
from console.reading import parts, pretty
from console.visible import visible
from conversations.models import Embedding, Exchange, Ledger, Message

MOST_EXCHANGES = 20


def show(request: HttpRequest, message: Message) -> HttpResponse:
    """The page of a message."""
    # Fetch all by their index and sort here: with a limit, PostgreSQL might scan every ledger instead.
    shown_in = sorted(Ledger.objects.showing(message).values_list("exchange", flat=True), reverse=True)
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
        shown_count=len(shown_in),
        pieces=[(piece, message.content[piece.start : piece.end]) for piece in pieces.order_by("model", "start")],
        shown_in=list(
            visible(request, Exchange.objects.filter(pk__in=shown_in[:MOST_EXCHANGES]))
            .select_related("question")
            .only("created", "model", "question__content")
            .order_by("-pk")
        ),
    )
