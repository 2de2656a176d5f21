"""What a scope knows that matters for a chat, and the ledger of it. Blocks.

Here is decided what recall is asked, what is not offered because the request holds it, and how each candidate's
fate reads. memory.py calls it for requests and for the recall route, evaluation/ to measure: it is one path.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from datetime import datetime

from django.conf import settings
from django.db import connection, transaction
from django.db.models.functions import Left

from conversations.embedders.base import Embedder, EmbedderError, Vectors
from conversations.models import Ledger, Message
from conversations.querysets import Scope
from conversations.recall.search import CANDIDATES, PARTS, Candidate, prepare_query, search
from conversations.turns import conversation_key, digest, plain_text
from proxy.prompt.chat import Additions, Chat, ChatMessage, Json, Memory, Turn
from proxy.prompt.counting import Count
from proxy.prompt.enrichment import BUDGET, DUPLICATE, EMPTY, note_tokens
from proxy.prompt.injection import Injection, Reused
from proxy.prompt.window import WINDOW

__all__ = ["PARTS", "Recollection", "entries", "explained", "question_key", "recollect"]

log = logging.getLogger(__name__)

# Why a message is not shown, for readers who have never seen the code.
LONGEST_QUESTION = 60_000  # characters; a message's words are indexed that far as well
EMBEDDED = 4_000  # characters of a question; a vector tells little of more, and an endpoint may refuse it
LONGEST_TOKEN = 16  # characters; a text that is longer than so many for each token has too many tokens, uncounted

REASONS = {
    BUDGET: "left out: no room for it in the budget for memories",
    DUPLICATE: "left out: the same text is shown already",
    EMPTY: "left out: it has no text that could be shown",
    WINDOW: "left out: the request would not have fitted the model's window",
}


@dataclass(frozen=True, slots=True)
class Recollection:
    """What recall brought for a request. `reused`, in a tool loop, is to be injected as it is."""

    state: str = "off"  # on, off, degraded
    additions: Additions = field(default_factory=Additions)
    candidates: tuple[Candidate, ...] = ()
    reused: Reused | None = None
    vector: Vectors | None = None  # of the question, by the embedding model of this name
    model: str = ""
    question: str = ""
    late: bool = False  # nothing came within the deadline


def recollect(
    embedder: Callable[[], Embedder],
    *,
    scope: Scope,
    chat: Chat,
    count: Count,
    candidates: int = CANDIDATES,
    latest: bool = True,
    milliseconds: int = 0,
    without: Set[str] = frozenset(),
) -> Recollection:
    """What the scope knows that matters for the chat's last user message, which there must be.

    `latest`: also the latest turns, unless the chat brings a history. The server gives up a query after
    `milliseconds` (0: never). `without`: the parts of recall, of PARTS, to leave out. Raises django.db.Error.
    """
    if chat.in_tool_loop and (kept := _sent_before(scope, chat)):
        return Recollection("on", reused=Reused(tuple(kept.injected), tuple(kept.message_ids), kept.tokens))
    last = chat.last_user
    assert last is not None
    question = _looked_at(plain_text(chat.messages[last].payload))
    asked = prepare_query(scope=scope, text=question)
    state, vectors, model = "on", None, ""
    if question.strip():
        try:
            used = embedder()
            # The question's own is kept with it; what is looked for may be worded otherwise.
            texts = [*dict.fromkeys(text[:EMBEDDED] for text in (question, asked.wording))]
            vectors, model = used.embed(texts), used.name
        except EmbedderError as error:
            log.warning("recall goes by words alone: %s", error)
            state = "degraded"
    present = {digest(message.payload) for message in chat.messages}
    # One transaction, that the server gives up when the deadline has passed.
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL statement_timeout = {milliseconds:d}")
        turns = _latest_turns(scope, present, count) if latest and not chat.has_history else ()
        found = search(
            query=asked,
            vector=None if vectors is None else vectors[-1].tolist(),
            model=model,
            limit=candidates,
            without=without,
        )
    shown = present | {digest(turn.message.payload) for turn in turns}
    added = {turn.id for turn in turns}  # one with an image is added as its text, and has another digest
    relevant = (c for c in found if c.relevant and c.digest not in shown and c.id not in added)
    return Recollection(
        state=state,
        additions=Additions(turns, tuple(map(_as_memory, relevant))),
        candidates=tuple(found),
        vector=None if vectors is None else vectors[:1],
        model=model,
        question=question,
    )


def entries(recalled: Recollection, injection: Injection, count: Count) -> list[Json]:
    """The ledger: every message that was considered, the latest turns first, then the recalled ones, best first.

    Each has its id, where it came from, the tokens it takes, whether it is shown and why; a recalled one also its
    score, each arm's rank (from 1) and share in the score, and the piece of its text (offsets) that is meant.
    """
    turns = recalled.additions.turns
    return [
        *(_turn_entry(turn, injection, count) for turn in turns),
        *(_candidate_entry(candidate, recalled, injection, count) for candidate in recalled.candidates),
    ]


def explained(recalled: Recollection, injection: Injection, count: Count) -> list[Json]:
    """The ledger with the messages themselves, for somebody who looks at it now."""
    turns = {turn.id: turn for turn in recalled.additions.turns}
    candidates = {candidate.id: candidate for candidate in recalled.candidates}
    found: list[Json] = []
    created: datetime | None
    for entry in entries(recalled, injection, count):
        if entry["arm"] == "recall":
            candidate = candidates[entry["id"]]
            role, name, content = candidate.role, candidate.name, candidate.content
            created, text = candidate.created, candidate.text
        else:
            turn = turns[entry["id"]]
            payload = turn.message.payload
            role, name, content = turn.message.role, payload.get("name", ""), payload["content"]
            created, text = turn.created, content
        about = {"role": role, "name": name, "created_at": created and created.isoformat(), "content": content}
        about["text"] = text  # what of the content is shown
        found.append({"id": entry["id"], **about, **entry})
    return found


def question_key(chat: Chat) -> bytes:
    """Stands for the conversation up to its last user message, the same in every round of a tool loop."""
    end = (chat.last_user or 0) + 1
    return conversation_key(digest(m.payload) for m in chat.messages[:end] if not m.is_system)


def _turn_entry(turn: Turn, injection: Injection, count: Count) -> Json:
    return {
        "id": turn.id,
        "arm": "latest",
        "tokens": count(str(turn.message.payload["content"])),
        "kept": turn.id in injection.shown,
        "why": REASONS.get(injection.reasons.get(turn.id, ""), "shown: one of the latest messages"),
    }


def _candidate_entry(candidate: Candidate, recalled: Recollection, injection: Injection, count: Count) -> Json:
    is_latest = any(turn.id == candidate.id for turn in recalled.additions.turns)
    kept = candidate.id in injection.shown and not is_latest
    if kept:
        why = "shown: relevant"
    elif is_latest:
        why = "not repeated: it is among the latest messages, which are added as turns"
    elif any(memory.id == candidate.id for memory in recalled.additions.memories):
        why = REASONS.get(injection.reasons.get(candidate.id, ""), "left out")
    elif not candidate.relevant:
        why = "left out: less than half as relevant as the best"
    else:
        why = "not repeated: the request holds it already"
    return {
        "id": candidate.id,
        "arm": "recall",
        "score": round(candidate.score, 4),
        "arms": {name: {"rank": part.rank, "score": round(part.score, 4)} for name, part in candidate.parts.items()},
        "piece": [candidate.start, candidate.end],
        "tokens": note_tokens(_as_memory(candidate), count),
        "kept": kept,
        "why": why,
    }


def _as_memory(candidate: Candidate) -> Memory:
    """A candidate as it would be shown to the model."""
    return Memory(candidate.id, candidate.role, candidate.name, candidate.created, candidate.text, candidate.score)


def _looked_at(question: str) -> str:
    """What of a question is looked at: of a very long one its beginning and its end."""
    half = LONGEST_QUESTION // 2
    return question if len(question) <= LONGEST_QUESTION else f"{question[:half]}\n{question[-half:]}"


def _latest_turns(scope: Scope, present: set[bytes], count: Count) -> tuple[Turn, ...]:
    """The scope's latest messages as turns, oldest first, beginning with a user's."""
    left = settings.RESERVOIR_RECENT_TOKENS
    turns: list[Turn] = []
    # Of several choices (`n`) the first stands for the answer: one turn follows another.
    rows = Message.objects.in_scope(scope).recallable().filter(choice=0).recent(settings.RESERVOIR_RECENT_MESSAGES)
    # No more of a text than tells that it is too long: it may have megabytes.
    text = Left("content", LONGEST_TOKEN * left + 1)
    for row in rows.values("id", "role", "name", "created", "digest", text=text):
        if len(row["text"]) > LONGEST_TOKEN * left or (left := left - count(row["text"]) - 4) < 0:
            break
        if bytes(row["digest"]) not in present:
            payload = {"role": row["role"], "content": row["text"]} | ({"name": row["name"]} if row["name"] else {})
            turns.insert(0, Turn(row["id"], ChatMessage.make(payload), row["created"]))
    while turns and turns[0].message.role != "user":
        turns.pop(0)
    return tuple(turns)


def _sent_before(scope: Scope, chat: Chat) -> Ledger | None:
    """The ledger of the exchange that asked this question first."""
    ledgers = Ledger.objects.filter(
        key=question_key(chat),
        exchange__instance__partition__name=scope.partition,
        exchange__instance__name=scope.instance,
    )
    # Where recall was late in one round of the loop, the round before it says what is added.
    return ledgers.exclude(exchange__memory="degraded", injected=[]).order_by("-pk").first()
