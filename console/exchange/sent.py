"""The request of an exchange: what the app sent, and what was added to it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from django.http import HttpRequest

from console import safe_text
from console.exchange.request_body import body
from console.reading import LARGEST_PAYLOAD, Part, json_object, parts
from console.visible import visible
from conversations.models import Exchange, Message
from conversations.payloads import with_content
from conversations.shapes import apis_of, in_words, role_of
from conversations.turns import plain_text
from proxy.dialects.chat_completions.dialect import CHAT_COMPLETIONS
from proxy.dialects.dialect import Dialect
from proxy.dialects.known import BY_NAME
from proxy.prompt.chat import ChatMessage, last_user_index
from proxy.prompt.enrichment import BLOCK_START, as_message, spliced

# Of a long history, this many turns are shown; the page says how many it leaves out.
MOST_TURNS = 40


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of the request. We `added` it or `left_out` it. A message without an `id` is not stored."""

    role: str = ""
    content: str = ""
    raw: str = ""
    added: bool = False
    left_out: bool = False  # the model's window had no room for it
    id: int | None = None
    foreign: bool = False  # it came through another API first, and is spelled as there
    large: bool = False  # `raw` stands for a message that is too large to be shown here
    skipped: int = 0  # stands for this number of turns that the page does not show
    unsent: int = 0  # stands for this number of turns that were left out
    latest: str = ""  # the text of one of the latest turns, which are folded

    @property
    def parts(self) -> list[Part]:
        """Laid out only when shown: a client may resend thousands."""
        if self.added:
            return [Part("text", safe_text.plain(self.content))]
        return parts(self.role, self.content, "" if self.large else self.raw)


@dataclass(frozen=True, slots=True)
class Sent:
    """What the app sent, restored from stored messages."""

    dialect: Dialect
    turns: list[Turn] = field(default_factory=list)  # system prompts included, nothing added
    complete: bool = True  # no part has been forgotten
    instructions: list[Turn] = field(default_factory=list)  # what the model is told besides the turns

    @property
    def exact(self) -> bool:
        """Whether the request can be sent again."""
        return self.complete and not any(turn.large or turn.foreign for turn in self.turns)

    def body(self, parameters: str, texts: Sequence[str] | None = None, model: str = "") -> str:
        """The text of the request: as the app sent it, or with these messages."""
        messages = [turn.raw for turn in self.turns] if texts is None else texts
        return body(parameters, messages, field=self.dialect.messages_field, model=model)


def read_sent(request: HttpRequest, exchange: Exchange) -> Sent:
    """The request's messages: stored ones by their ids, system prompts at their places."""
    ids = exchange.request_ids
    dialect = BY_NAME.get(exchange.dialect, CHAT_COMPLETIONS)
    stored = {
        message.pk: message
        for message in visible(request, Message.objects.with_raw(LARGEST_PAYLOAD).filter(pk__in=ids))
    }
    left_out = set(exchange.left_out)
    turns = [
        replace(_stored(stored[pk], dialect), left_out=at in left_out) for at, pk in enumerate(ids) if pk in stored
    ]
    for place, raw in sorted(exchange.prompts):
        turns.insert(place, _turn(raw))
    instructions = [
        _turn(json.dumps({"role": "system", "content": text}))
        for text in dialect.instructions(dict(json_object(exchange.parameters)))
    ]
    return Sent(dialect, turns, len(stored) == len(set(ids)) and bool(exchange.parameters), instructions)


def _stored(message: Any, dialect: Dialect) -> Turn:
    large = message.size > LARGEST_PAYLOAD
    instead = {"role": message.role, "content": f"({message.size:,} bytes: see message {message.pk})"}
    raw = json.dumps(instead) if large else with_content(message.raw, message.content)
    turn = Turn(message.role, message.content, raw, id=message.pk, large=large)
    payload = json_object(raw)
    if large or dialect.name in apis_of(payload):
        return turn
    words = in_words(payload)  # a turn that is stored once may have come through another API first
    return replace(turn, raw=words or raw, foreign=words is None)


def _turn(raw: str) -> Turn:
    payload = json_object(raw)
    return Turn(role_of(payload), plain_text(payload), raw)


def added_turn(raw: str) -> Turn:
    """One of the additions of a ledger: a turn, or the memories."""
    raw = as_message(raw).raw if raw.startswith('"') else raw
    payload = json_object(raw)
    text = plain_text(payload)
    latest = "" if text.startswith(BLOCK_START) else text
    return Turn(str(payload.get("role") or ""), text, raw, added=True, latest=latest)


def with_added(turns: Sequence[Turn], added: Sequence[Turn]) -> list[Turn]:
    """The turns with the additions where the proxy puts them, or at the end where the user message is forgotten."""
    at = last_user_index(turns)
    return [*turns, *added] if at is None else [*turns[:at], *added, *turns[at:]]


def texts_sent(sent: Sent, injected: Sequence[str]) -> list[str]:
    """The JSON texts of the messages that the provider got, exactly as sent, with what was added.

    Each is one turn: a run is written as it is stored.
    """
    kept = [turn for turn in sent.turns if not turn.left_out]
    at = last_user_index(kept)
    if at is None or not injected:
        return [turn.raw for turn in kept]
    messages = [ChatMessage.read(turn.raw) for turn in kept]
    return [message.stored for message in spliced(messages, at, injected, in_parts=sent.dialect.in_parts)]


def with_gaps(turns: Sequence[Turn]) -> list[Turn]:
    """The turns as the provider got them, with a count in place of each run that was left out."""
    found: list[Turn] = []
    for left_out, run in groupby(turns, key=lambda turn: turn.left_out):
        run_of = list(run)
        found += [Turn(unsent=len(run_of))] if left_out else run_of
    return found


def shortened(turns: list[Turn]) -> list[Turn]:
    if len(turns) <= MOST_TURNS:
        return turns
    half = MOST_TURNS // 2
    gap = Turn(skipped=len(turns) - 2 * half)
    return [*turns[:half], gap, *turns[-half:]]
