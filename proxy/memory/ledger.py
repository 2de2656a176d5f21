"""The ledger of a request: each message that was considered, whether the model sees it, and why. Pure."""

from __future__ import annotations

from typing import Any

from conversations.recall.search import Candidate
from proxy.memory.recollection import Recollection, as_memory
from proxy.prompt.chat import Json, Turn
from proxy.prompt.counting import Count
from proxy.prompt.enrichment import BUDGET, DUPLICATE, EMPTY, note_tokens
from proxy.prompt.injection import Injection
from proxy.prompt.window import WINDOW

# Why a message is not shown, for readers who have never seen the code.
REASONS = {
    BUDGET: "left out: no room for it in the budget for memories",
    DUPLICATE: "left out: the same text is shown already",
    EMPTY: "left out: it has no text that could be shown",
    WINDOW: "left out: the request would not have fitted the model's window",
}


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
        "why": REASONS.get(injection.reasons.get(turn.id, ""), "shown: one of the latest messages"),
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
        "why": _why(candidate, recalled, injection, is_latest=is_latest),
    }


def _why(candidate: Candidate, recalled: Recollection, injection: Injection, *, is_latest: bool) -> str:
    if is_latest:
        return "not repeated: it is among the latest messages, which are added as turns"
    if candidate.id in injection.shown:
        return "shown: a standing wish" if candidate.is_wish else "shown: relevant"
    if any(memory.id == candidate.id for memory in recalled.additions.memories):
        return REASONS.get(injection.reasons.get(candidate.id, ""), "left out")
    if not candidate.relevant:
        return "left out: scores less than half of the best"
    return "not repeated: the request holds it already"
