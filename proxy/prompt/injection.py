"""Pack, fit and enrich in one step: the request to send, and the reasons for the ledger. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import NamedTuple

from proxy.prompt.chat import Additions, Chat, MemoryRole, Turn
from proxy.prompt.counting import Count, message_tokens
from proxy.prompt.enrichment import additions_to_send, as_message, as_turns, pack, render, splice
from proxy.prompt.window import Limit, fit


class Reused(NamedTuple):
    """The injection of the first request with this user message: JSON texts, ids of stored messages, tokens.

    `rendering` is what the texts are kept as (proxy/memory/rendering.py); empty for those that an earlier version sent.
    """

    messages: tuple[str, ...]
    shown: tuple[int, ...]
    tokens: int
    rendering: bytes = b""


@dataclass(frozen=True, slots=True)
class Injection:
    """The chat to send, the messages added to it, the stored messages that these show, and why others are not shown.

    `role` says where the memories among them stand. `cut` holds the indices of the client's own messages for which the
    window had no room.
    """

    chat: Chat
    messages: tuple[str, ...] = ()  # JSON texts; the one of a block inside the last user message is a string
    shown: tuple[int, ...] = ()  # ids: of the turns, then of the memories
    tokens: int = 0
    reasons: Mapping[int, str] = field(default_factory=dict)  # id -> why it is not shown
    cut: Set[int] = frozenset()
    role: MemoryRole = "inside"
    costs: Mapping[int, int] = field(default_factory=dict)  # id of a memory -> tokens of its lines, as far as counted


@dataclass(frozen=True, slots=True)
class Constraints:
    """What an enriched request has to comply with. `count` gives the tokens of a text."""

    budget: int  # tokens of the memory block
    limit: Limit
    default_window: int  # tokens, assumed where the limit is not known
    role: MemoryRole  # of the memory block's message
    count: Count
    names: bool = True  # turns may have the name of their speaker


def inject(chat: Chat, additions: Additions, constraints: Constraints, *, reused: Reused | None = None) -> Injection:
    """Add to the chat the turns and the memories for which the budget and the window have room.

    `reused` is added unchanged, or not at all if the window has no room for all of it.
    """
    limit, window, count = constraints.limit, constraints.default_window, constraints.count
    if reused is not None:
        again = tuple(Turn(0, as_message(text)) for text in reused.messages)
        fitted = fit(chat, Additions(again), limit, count, render=render, default_window=window)
        if fitted.additions.turns != again:
            return Injection(fitted.chat, cut=fitted.cut)
        texts, shown, tokens, _ = reused
        return Injection(splice(fitted.chat, texts), texts, shown, tokens, cut=fitted.cut)
    packed = pack(additions.memories, constraints.budget, count)
    offered = Additions(as_turns(additions.turns, names=constraints.names), packed.kept)
    fitted = fit(chat, offered, limit, count, render=render, block=packed.block, default_window=window)
    turns, kept = fitted.additions.turns, fitted.additions.memories
    added = additions_to_send(fitted.additions, fitted.block, constraints.role)
    return Injection(
        chat=splice(fitted.chat, added),
        messages=added,
        shown=(*(turn.id for turn in turns), *(memory.id for memory in kept)),
        tokens=sum(message_tokens(as_message(text).payload, count) for text in added),
        reasons={**packed.dropped, **fitted.dropped},
        cut=fitted.cut,
        role=constraints.role,
        costs=packed.costs,
    )
