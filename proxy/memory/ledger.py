"""The ledger of a request: each message that was considered, whether the model sees it, and why. Pure."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
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
    outcome = _Outcome.of(recalled, injection, count)
    return [outcome.entry(each) for each in outcome.considered()]


def kept(recalled: Recollection, injection: Injection, *, key: bytes, count: Count) -> Ledger:
    """What is stored of it: the entries of what was shown and of the nearest misses, and how to add the same again.

    `key` is the request's question_key().
    """
    rendering = _rendering(recalled, injection)
    outcome = _Outcome.of(recalled, injection, count)
    return Ledger(
        key=key,
        candidates=tuple(map(outcome.entry, nearest(outcome.considered(), MISSES, outcome.is_shown))),
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


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of each message that was considered."""

    recalled: Recollection
    injection: Injection
    count: Count
    shown: Set[int]
    latest: Set[int]  # ids of the latest turns
    offered: Set[int]  # ids of the memories that were packed or dropped

    @classmethod
    def of(cls, recalled: Recollection, injection: Injection, count: Count) -> _Outcome:
        return cls(
            recalled,
            injection,
            count,
            frozenset(injection.shown),
            {turn.id for turn in recalled.additions.turns},
            {memory.id for memory in recalled.additions.memories},
        )

    def considered(self) -> tuple[Turn | Candidate, ...]:
        return (*self.recalled.additions.turns, *self.recalled.candidates)

    def is_shown(self, each: Turn | Candidate) -> bool:
        return each.id in self.shown and (isinstance(each, Turn) or each.id not in self.latest)

    def entry(self, each: Turn | Candidate) -> Json:
        return self._of_turn(each) if isinstance(each, Turn) else self._of_candidate(each)

    def _of_turn(self, turn: Turn) -> Json:
        return {
            "id": turn.id,
            "arm": "latest",
            "tokens": self.count(str(turn.message.payload["content"])),
            "kept": self.is_shown(turn),
            "why": self._reason(turn.id, Why.LATEST).value,
        }

    def _of_candidate(self, candidate: Candidate) -> Json:
        tokens = self.injection.costs.get(candidate.id)
        return {
            "id": candidate.id,
            "arm": "recall",
            "score": round(candidate.score, 4),
            "arms": {
                name: {"rank": part.rank, "score": round(part.score, 4)} for name, part in candidate.parts.items()
            },
            "piece": [candidate.start, candidate.end],
            "tokens": note_tokens(as_memory(candidate), self.count) if tokens is None else tokens,
            "kept": self.is_shown(candidate),
            "why": self._why(candidate).value,
        }

    def _why(self, candidate: Candidate) -> Why:
        if candidate.id in self.latest:
            return Why.AMONG_LATEST
        if candidate.id in self.shown:
            return Why.WISH if candidate.is_wish else Why.RELEVANT
        if candidate.id in self.offered:
            return self._reason(candidate.id, Why.OTHERWISE)
        return Why.IN_REQUEST if candidate.relevant else Why.LOW_SCORE

    def _reason(self, id_: int, otherwise: Why) -> Why:
        return REASONS.get(self.injection.reasons.get(id_, ""), otherwise)
