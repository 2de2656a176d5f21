"""What is put into a request, and what the ledger says of it: pack, fit and enrich in one step. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from proxy.chat import Additions, Chat
from proxy.enrichment import Count, MemoryRole, enrich, messages_to_add, pack, render, splice
from proxy.window import Limit, fit, message_tokens


@dataclass(frozen=True, slots=True)
class Injection:
    """The chat to send; the messages added to it; the stored messages they show; why others are not shown."""

    chat: Chat
    messages: tuple[str, ...] = ()  # JSON texts
    shown: tuple[int, ...] = ()  # ids
    tokens: int = 0
    reasons: Mapping[int, str] = field(default_factory=dict)  # id -> why not


def inject(
    chat: Chat,
    additions: Additions,
    *,
    budget: int,
    role: MemoryRole,
    limit: Limit,
    window: int,
    count: Count,
) -> Injection:
    """Put into the chat the turns, and the memories that the budget and the window have room for.

    `window` is the one to assume where the limit is not known.
    """
    packed = pack(additions.memories, budget, count)
    fitted = fit(chat, Additions(additions.turns, packed.kept), limit, count, render=render, default_window=window)
    turns, kept = fitted.additions.turns, fitted.additions.memories
    added = messages_to_add(fitted.additions, fitted.block, role)
    return Injection(
        chat=enrich(fitted.chat, fitted.additions, fitted.block, role),
        messages=tuple(message.raw for message in added),
        shown=(*(turn.id for turn in turns), *(memory.id for memory in kept)),
        tokens=sum(message_tokens(message.payload, count) for message in added),
        reasons={**packed.dropped, **fitted.dropped},
    )


def inject_again(chat: Chat, messages: tuple[str, ...], shown: tuple[int, ...], tokens: int) -> Injection:
    """What was sent for the same user message before, byte for byte (in a tool loop)."""
    return Injection(splice(chat, messages), messages, shown, tokens)
