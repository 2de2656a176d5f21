"""A ledger -> the table on the page: each candidate, its rank and score by each arm, and why it was kept or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connection
from django.http import HttpRequest

from console.visible import visible
from conversations.models import Ledger, Message

TEXT = 1_200  # characters of a candidate that are fetched

# Each arm's label and explanation, for readers who do not know the code.
ARMS = {
    "vector": ("meaning", "how close its meaning is to that of the question"),
    "words": ("words", "how many rare words it shares with the question"),
    "session": ("session", "how well its session fits the question"),
    "nearby": ("nearby", "how many of the question's words appear in the messages around it"),
    "speaker": ("speaker", "whether the question names its speaker"),
    "answer": ("answers", "whether it follows a similar question"),
    "user": ("user", "whether the user wrote it, in a chat with an assistant"),
    "reply": ("reply", "how well the assistant's reply to it fits the question"),
    "wish": ("wish", "whether it says what the user always wants"),
    "date": ("date", "whether it was written on a day that the question names"),
    "time": ("time", "whether it tells a time that the question asks for"),
    "question": ("asks", "a question tells less than its answer"),
    "short": ("short", "a few words tell little"),
    "reranker": ("reranker", "what the reranker's order adds or takes"),
}

# The part of each message's text that recall found.
PIECES = """
SELECT m.id, substr(m.content, piece.start + 1, least(piece.length, %s))
FROM unnest(%s::bigint[], %s::int[], %s::int[]) piece(id, start, length)
JOIN conversations_message m ON m.id = piece.id
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One candidate. `cells` are (rank, score) in the order of the table's arms; `message` is None once forgotten."""

    id: int
    message: Message | None
    text: str
    recalled: bool  # else one of the latest turns
    score: float | None
    bar: int  # the score as percent of the best
    cells: list[tuple[int | None, float | None]]
    tokens: int | None
    kept: bool
    why: str


@dataclass(frozen=True, slots=True)
class Table:
    rows: list[Row]
    arms: list[tuple[str, str]]  # headings, and what they mean

    @property
    def memories(self) -> list[Row]:
        """Recalled messages that were shown, most relevant first."""
        return [row for row in self.rows if row.kept and row.recalled and row.message]

    @property
    def turns(self) -> list[Row]:
        """The latest turns that were added."""
        return [row for row in self.rows if row.kept and not row.recalled and row.message]

    @property
    def kept(self) -> int:
        return sum(row.kept for row in self.rows)

    @property
    def forgotten(self) -> int:
        """The number of shown messages that have been forgotten since."""
        return sum(row.kept and row.message is None for row in self.rows)


def table(request: HttpRequest, ledger: Ledger | None) -> Table:
    """The ledger with the messages that the user may see."""
    entries = [entry for entry in ledger.entries if isinstance(entry, dict)] if ledger else []
    arms = _told(entries)
    messages, texts = _messages(request, entries)
    best = max((_score(entry) or 0 for entry in entries), default=0) or 1
    rows = [
        Row(
            id=entry.get("id", 0),
            message=messages.get(entry.get("id", 0)),
            text=texts.get(entry.get("id", 0), ""),
            recalled=entry.get("arm") != "latest",
            score=_score(entry),
            bar=max(0, min(100, round(100 * (_score(entry) or 0) / best))),
            cells=[_arms(entry).get(arm, (None, None)) for arm in arms],
            tokens=entry.get("tokens"),
            kept=bool(entry.get("kept")),
            why=str(entry.get("why") or "").removeprefix("shown: ").removeprefix("left out: "),
        )
        for entry in entries
    ]
    rows.sort(key=lambda row: not row.recalled)  # recalled messages first, then the latest turns
    return Table(rows, [ARMS.get(arm, (arm, "")) for arm in arms])


def _told(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """The arms that told something of any candidate, in the order of ARMS."""
    told = {arm for entry in entries for arm, (rank, _) in _arms(entry).items() if rank is not None}
    order = list(ARMS)
    return sorted(told, key=lambda arm: (order.index(arm) if arm in order else len(order), arm))


def _messages(request: HttpRequest, entries: Sequence[Mapping[str, Any]]) -> tuple[dict[int, Message], dict[int, str]]:
    pieces = {entry["id"]: _piece(entry) for entry in entries if isinstance(entry.get("id"), int)}
    rows = visible(request, Message.objects.filter(pk__in=pieces)).only("id", "role", "name", "created")
    messages = {message.pk: message for message in rows}
    starts = [pieces[pk][0] for pk in messages]
    lengths = [pieces[pk][1] for pk in messages]
    with connection.cursor() as cursor:
        cursor.execute(PIECES, [TEXT, list(messages), starts, lengths])
        return messages, dict(cursor.fetchall())


def _piece(entry: Mapping[str, Any]) -> tuple[int, int]:
    """The start and length of the recalled text, in characters."""
    piece = entry.get("piece")
    if isinstance(piece, list) and len(piece) == 2 and all(isinstance(at, int) for at in piece):
        return piece[0], max(0, piece[1] - piece[0])
    return 0, TEXT


def _arms(entry: Mapping[str, Any]) -> dict[str, tuple[int | None, float | None]]:
    arms = entry.get("arms")
    if not isinstance(arms, dict):
        return {}
    return {
        name: (arm.get("rank"), arm.get("score") if arm.get("rank") is not None else None)
        for name, arm in arms.items()
        if isinstance(arm, dict)
    }


def _score(entry: Mapping[str, Any]) -> float | None:
    score = entry.get("score")
    return float(score) if isinstance(score, int | float) else None
