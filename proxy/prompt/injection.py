"""What is put into a request, and what the ledger says of it: pack, fit and enrich in one step. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import NamedTuple

from proxy.prompt.chat import Additions, Chat, ChatMessage, MemoryRole, Turn
from proxy.prompt.counting import Count, message_tokens
from proxy.prompt.enrichment import as_turns, enrich, messages_to_add, pack, render, splice
from proxy.prompt.window import Limit, fit


class Reused(NamedTuple):
    """What was injected when this user message was first asked: JSON texts, ids of stored messages, tokens."""

    messages: tuple[str, ...]
    shown: tuple[int, ...]
    tokens: int


@dataclass(frozen=True, slots=True)
class Injection:
    """The chat to send; the messages added to it; the stored messages they show; why others are not shown.

    `cut` are the places of the client's own messages that the window had no room for.
    """

    chat: Chat
    messages: tuple[str, ...] = ()  # JSON texts
    shown: tuple[int, ...] = ()  # ids
    tokens: int = 0
    reasons: Mapping[int, str] = field(default_factory=dict)  # id -> why not
    cut: Set[int] = frozenset()


def inject(
    chat: Chat,
    additions: Additions,
    *,
    reused: Reused | None,
    budget: int,
    role: MemoryRole,
    limit: Limit,
    window: int,
    count: Count,
) -> Injection:
    """Put into the chat the turns, and the memories that the budget and the window have room for.

    `window` is the one to assume where the limit is not known. `reused` is put in as it is, or, where the
    window has no room for all of it, not at all.
    """
    if reused is not None:
        again = tuple(Turn(0, ChatMessage(raw, json.loads(raw))) for raw in reused.messages)
        fitted = fit(chat, Additions(again), limit, count, render=render, default_window=window)
        if fitted.additions.turns != again:
            return Injection(fitted.chat, cut=fitted.cut)
        return Injection(splice(fitted.chat, reused.messages), *reused, cut=fitted.cut)
    packed = pack(additions.memories, budget, count)
    offered = Additions(as_turns(additions.turns), packed.kept)
    fitted = fit(chat, offered, limit, count, render=render, default_window=window)
    turns, kept = fitted.additions.turns, fitted.additions.memories
    added = messages_to_add(fitted.additions, fitted.block, role)
    return Injection(
        chat=enrich(fitted.chat, fitted.additions, fitted.block, role),
        messages=tuple(message.raw for message in added),
        shown=(*(turn.id for turn in turns), *(memory.id for memory in kept)),
        tokens=sum(message_tokens(message.payload, count) for message in added),
        reasons={**packed.dropped, **fitted.dropped},
        cut=fitted.cut,
    )
