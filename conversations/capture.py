"""Capture: which messages of a request are new.

Clients resend their whole history, a window of it, or just the new turn; the history that is left must be
the same. Stored messages form trees: each knows the turn before it (`parent`). The turns of a request are
laid along those trees, and what does not lie there is new:

- The longest beginning of the request that lies on a branch is known; the rest grows from its end. Where
  something grew there already, that is a fork, and the older branch is abandoned.
- A window whose head was rewritten (a summary in place of old turns) is known from where it
  lies on a branch.
- A single turn has no history to lie along: it is new, unless it is the scope's latest question and was never
  answered. Then it is a retry. A new one grows from the scope's latest message, marked as sent alone: that is
  no fork, and becomes history when a client resends it as such.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from conversations.turns import Turn


@dataclass(frozen=True, slots=True)
class Known:
    """A stored message, with what is needed to lay a request along its branch."""

    id: int
    digest: bytes
    role: str
    parent: int | None = None
    parent_digest: bytes = b""
    parent_role: str = ""
    parent_first: bool = False  # its parent is where a conversation begins
    grandparent: int | None = None
    grandparent_digest: bytes = b""
    answer: int | None = None  # its latest answer, if it is a question
    answered: bool = False  # in full, or being answered right now
    leaf: bool = True  # no client has gone on from here
    alone: bool = False  # sent without history
    abandoned: bool = False


@dataclass(frozen=True, slots=True)
class Alignment:
    """Where a request lies: for each turn the stored message's id or None, and what the new turns grow from.

    `path` are the stored messages it runs along, answers that the client left out included. What else grows
    from one of `forks` is a branch that the client has left.
    """

    ids: tuple[int | None, ...]
    parent: int | None = None
    path: frozenset[int] = frozenset()
    forks: frozenset[int] = frozenset()
    revived: bool = False  # part of the path was abandoned
    joined: bool = False  # part of the path was sent alone, and has now been resent as history


def align(turns: Sequence[Turn], known: Iterable[Known], latest_question: int | None) -> Alignment:
    """Lay the turns of a request (no system prompts among them) along what is stored.

    `known` are the scope's messages that share a digest with one of the turns; `latest_question` is the
    scope's latest user message.
    """
    by_id = {message.id: message for message in known}
    by_digest: dict[bytes, list[Known]] = {}
    for message in sorted(by_id.values(), key=lambda m: (not m.leaf, -m.id)):
        by_digest.setdefault(message.digest, []).append(message)

    if len(turns) == 1:
        only = by_id.get(latest_question or 0)
        if only and only.digest == turns[0].digest and not only.answered:
            return Alignment((only.id,), only.id, frozenset({only.id}))
        return Alignment((None,))

    runs = _runs(turns, by_id, by_digest)
    if not runs:
        return Alignment((None,) * len(turns))
    # From the first turn on if possible; then as far as possible; then the branch that nothing continues.
    start, end, last = runs[0]
    if start == 0 and end == len(turns) - 1 and by_id[last].answered:
        # Asked again for another answer, unless all but the last turn lie where nobody has gone on: then the
        # window has slid over a sentence that is said again.
        start, end, last = next(
            (run for run in runs if run[:2] == (0, end - 1) and by_id[run[2]].leaf), (start, end, last)
        )
    if start > 0 and (end - start < 1 or _edited_first(turns, by_id, start, end, last)):
        return Alignment((None,) * len(turns))
    ids: list[int | None] = [None] * len(turns)
    path = set()
    node: Known | None = by_id[last]
    at = end
    while node is not None and at >= start:
        ids[at] = node.id
        path.add(node.id)
        at -= 1
        before = _before(node, turns[at], by_id) if at >= start else None
        if before and before.id != node.parent:
            path.add(node.parent or 0)
        node = before
    parent = last
    tail = by_id[last]
    if end + 1 < len(turns) and turns[end + 1].role == tail.role == "user" and tail.answer:
        parent = tail.answer  # the client left the answer out
        path.add(parent)
    nodes = [by_id[pk] for pk in path if pk in by_id]
    revived = any(node.abandoned for node in nodes)
    # A fork further up was seen when it came about, unless the client is going back to an abandoned branch.
    forks = path if revived else {pk for pk in (parent, last, tail.parent) if pk is not None}
    if end == len(turns) - 1:  # asked again: its answers stay until there is another one
        forks = forks - {last}
    joined = any(node.alone and node.parent in path for node in nodes)
    return Alignment(tuple(ids), parent, frozenset(path), frozenset(forks), revived, joined)


def _runs(
    turns: Sequence[Turn], by_id: Mapping[int, Known], by_digest: Mapping[bytes, list[Known]]
) -> list[tuple[int, int, int]]:
    """Runs of turns that lie on a branch, as (first turn, last turn, id of the last), best first."""
    begins: dict[tuple[int, int], int] = {}
    runs = []
    for end, current in enumerate(turns):
        for order, message in enumerate(by_digest.get(current.digest, ())):
            before = _before(message, turns[end - 1], by_id) if end else None
            begin = begins.get((before.id, end - 1), end) if before else end
            begins[message.id, end] = begin
            runs.append((begin, end, order, message.id))
    runs.sort(key=lambda run: (run[0] > 0, -run[1], run[0], run[2]))
    return [(begin, end, message_id) for begin, end, _, message_id in runs]


def _before(message: Known, wanted: Turn, by_id: Mapping[int, Known]) -> Known | None:
    """The stored message that `wanted` would be, right before `message`; a left-out answer is skipped."""
    if message.parent_digest == wanted.digest:
        return by_id.get(message.parent or 0)
    skips_answer = message.parent_role == "assistant" and wanted.role == "user"
    if skips_answer and message.grandparent_digest == wanted.digest:
        return by_id.get(message.grandparent or 0)
    return None


def _edited_first(turns: Sequence[Turn], by_id: Mapping[int, Known], start: int, end: int, last: int) -> bool:
    """Whether only the conversation's first turn was edited, which is a fork, not a rewritten head."""
    node = by_id[last]
    for at in range(end - 1, start - 1, -1):
        before = _before(node, turns[at], by_id)
        if before is None:
            return False
        node = before
    return start == 1 and node.parent_role == turns[0].role and node.parent_first
