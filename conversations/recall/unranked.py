"""What a request gets without ranking: the scope's latest messages, and what its tool loop was given before."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from django.db.models.functions import Left

from conversations.models import Ledger, Message
from conversations.querysets import Scope
from conversations.states import MemoryState

LONGEST_TOKEN = 16  # characters; a text with more than this for each token of the budget is too long, uncounted
MESSAGE_OVERHEAD = 4  # tokens that a message costs besides its text


class LatestMessage(NamedTuple):
    """One of a scope's latest messages."""

    id: int
    role: str
    name: str
    created: datetime
    digest: bytes
    text: str


class EarlierInjection(NamedTuple):
    """What an earlier round of a tool loop was given: JSON texts, ids of stored messages, tokens."""

    messages: tuple[str, ...]
    message_ids: tuple[int, ...]
    tokens: int


def latest_messages(scope: Scope, *, most: int, budget: int, count: Callable[[str], int]) -> list[LatestMessage]:
    """At most `most` of the scope's latest messages, oldest first, within `budget` tokens as counted by `count`.

    Stops at the first message that exceeds the budget: the list has no gaps.
    """
    # A request with several choices (`n`) is represented by its first answer: one turn follows another.
    rows = Message.objects.in_scope(scope).recallable().filter(choice=0).recent(most)
    # Texts may have megabytes: read only enough to see that one is too long.
    text = Left("content", LONGEST_TOKEN * budget + 1)
    found: list[LatestMessage] = []
    left = budget
    for row in rows.values("id", "role", "name", "created", "digest", text=text):
        if len(row["text"]) > LONGEST_TOKEN * left:
            break
        left -= count(row["text"]) + MESSAGE_OVERHEAD
        if left < 0:
            break
        digest = bytes(row["digest"])
        found.append(LatestMessage(row["id"], row["role"], row["name"], row["created"], digest, row["text"]))
    return found[::-1]


def earlier_injection(scope: Scope, key: bytes) -> EarlierInjection | None:
    """What the latest exchange with this ledger key was given, None without one."""
    ledgers = Ledger.objects.filter(
        key=key,
        exchange__instance__partition__name=scope.partition,
        exchange__instance__name=scope.instance,
    )
    # A round whose recall was late added nothing: the round before it decides.
    ledger = ledgers.exclude(exchange__memory=MemoryState.DEGRADED, injected=[]).order_by("-pk").first()
    if ledger is None:
        return None
    return EarlierInjection(tuple(ledger.injected), tuple(ledger.message_ids), ledger.tokens)
