"""The ledger of a request: each message that was considered, whether the model sees it, and why. Pure."""

from __future__ import annotations

from typing import Any

from conversations.actions import Ledger
from conversations.ledger_entries import Why, nearest
from conversations.recall.search import Candidate
from proxy.memory.recollection import Recollection, as_memory
from proxy.memory.rendering import Part, described
from proxy.prompt.chat import Json, Turn
from proxy.prompt.counting import Count
from proxy.prompt.enrichment import BUDGET, DUPLICATE, EMPTY, note_tokens
from proxy.prompt.injection import Injection
from proxy.prompt.window import WINDOW

MISSES = 5  # messages that were not shown: the nearest ones stay in the ledger

REASONS = {BUDGET: Why.NO_ROOM, DUPLICATE: Why.SAME_TEXT, EMPTY: Why.NO_TEXT, WINDOW: Why.WINDOW}


def entries(recalled: Recollection, injection: Injection, count: Count) -> list[Json]:
    """One entry per message considered: the latest turns first, then the recalled messages, best first.

    Each has the message's id, its source (`arm`), the tokens that it takes, whether it is shown and why. A recalled
    message also has its score, its rank (from 1) and share of the score in each part of the formula, and the piece of
    its text (offsets) that is meant.
    """
    return [
        *(_turn_entry(turn, injection, count) for turn in recalled.additions.turns),
        *(_candidate_entry(candidate, recalled, injection, count) for candidate in recalled.candidates),
    ]


def kept(recalled: Recollection, injection: Injection, *, key: bytes, count: Count) -> Ledger:
    """What is stored of it: the entries of what was shown and of the nearest misses, and how to add the same again.

    `key` is the request's question_key().
    """
    rendering = _rendering(recalled, injection)
    return Ledger(
        key=key,
        candidates=tuple(nearest(entries(recalled, injection, count), MISSES)),
        injected=() if rendering else injection.messages,
        message_ids=injection.shown,
        tokens=injection.tokens,
        rendering=rendering,
    )


def _rendering(recalled: Recollection, injection: Injection) -> bytes:
    """Empty if nothing was added, or a text whose rendering is not known."""
    if not injection.messages:
        return b""
    if recalled.reused:
        return recalled.reused.rendering
    turns = {turn.id for turn in recalled.additions.turns}
    candidates = {candidate.id: candidate for candidate in recalled.candidates}
    memories = [candidates[pk] for pk in injection.shown if pk not in turns]
    parts = [Part(memory.start, memory.end, memory.is_wish) for memory in memories]
    return described(injection.messages, injection.role, len(injection.shown) - len(parts), parts)


def explained(recalled: Recollection, injection: Injection, count: Count) -> list[Json]:
    """The entries with the messages that they are about: `content`, and in `text` the part of it to show."""
    turns = {turn.id: turn for turn in recalled.additions.turns}
    candidates = {candidate.id: candidate for candidate in recalled.candidates}
    found: list[Json] = []
    for entry in entries(recalled, injection, count):
        id_, is_recalled = entry["id"], entry["arm"] == "recall"
        about = _about_candidate(candidates[id_]) if is_recalled else _about_turn(turns[id_])
        found.append({"id": id_, **about, **entry})
    return found


def _about_candidate(candidate: Candidate) -> dict[str, Any]:
    return {
        "role": candidate.role,
        "name": candidate.name,
        "created_at": candidate.created.isoformat(),
        "content": candidate.content,
        "text": candidate.text,
    }


def _about_turn(turn: Turn) -> dict[str, Any]:
    content = turn.message.payload["content"]
    return {
        "role": turn.message.role,
        "name": turn.message.payload.get("name", ""),
        "created_at": turn.created and turn.created.isoformat(),
        "content": content,
        "text": content,
    }


def _turn_entry(turn: Turn, injection: Injection, count: Count) -> Json:
    return {
        "id": turn.id,
        "arm": "latest",
        "tokens": count(str(turn.message.payload["content"])),
        "kept": turn.id in injection.shown,
        "why": REASONS.get(injection.reasons.get(turn.id, ""), Why.LATEST).value,
    }


def _candidate_entry(candidate: Candidate, recalled: Recollection, injection: Injection, count: Count) -> Json:
    is_latest = any(turn.id == candidate.id for turn in recalled.additions.turns)
    return {
        "id": candidate.id,
        "arm": "recall",
        "score": round(candidate.score, 4),
        "arms": {name: {"rank": part.rank, "score": round(part.score, 4)} for name, part in candidate.parts.items()},
        "piece": [candidate.start, candidate.end],
        "tokens": note_tokens(as_memory(candidate), count),
        "kept": candidate.id in injection.shown and not is_latest,
        "why": _why(candidate, recalled, injection, is_latest=is_latest).value,
    }


def _why(candidate: Candidate, recalled: Recollection, injection: Injection, *, is_latest: bool) -> Why:
    if is_latest:
        return Why.AMONG_LATEST
    if candidate.id in injection.shown:
        return Why.WISH if candidate.is_wish else Why.RELEVANT
    if any(memory.id == candidate.id for memory in recalled.additions.memories):
        return REASONS.get(injection.reasons.get(candidate.id, ""), Why.OTHERWISE)
    return Why.IN_REQUEST if candidate.relevant else Why.LOW_SCORE
