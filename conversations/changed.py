"""Pure: aligns histories that a client changed with stored branches, so that a changed turn affects no other.

Clients clear old tool results, delete pairs, wrap questions in templates, cut answers short and leave images out. A
branch and the request are therefore compared by their longest common subsequence, not by their longest common
beginning. Between two turns that both sides have, similar turns are the same turn; a turn that replaces another is its
new version, and only the old version is abandoned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

from rapidfuzz.distance import LCSseq

from conversations.likeness import alike
from conversations.shapes import calls_in
from conversations.turns import Turn


class Node(NamedTuple):
    """A stored message on a branch."""

    id: int
    digest: bytes
    role: str
    parent: int | None
    abandoned: bool = False
    alone: bool = False


class Said(NamedTuple):
    """What a stored message says: its plain text and its JSON text."""

    content: str
    payload: str


Saying = Callable[[Sequence[int]], Mapping[int, Said]]
"""Reads what messages say, by id."""


class Branches(Protocol):
    """Reads branches of a scope."""

    def through(self, message_id: int, turns: int) -> Sequence[Node]:
        """The branch of a message, from the root down: the messages before it, as far up as a request of `turns`
        turns may reach, and those after it.
        """

    def said(self, ids: Sequence[int]) -> Mapping[int, Said]:
        """What messages say, by id."""


@dataclass(frozen=True, slots=True)
class Laid:
    """A request along one branch.

    `ids` has each turn's stored message id or None, `path` the branch's nodes from the first known turn to the last,
    `after` the node that follows them, `replaced` the stored turns that have a new version, and `known` the number of
    known turns.
    """

    ids: tuple[int | None, ...]
    path: tuple[Node, ...]
    after: Node | None
    replaced: frozenset[int]
    known: int
    begins: bool  # the first turn is known


def lay(turns: Sequence[Turn], branch: Sequence[Node], said: Saying) -> Laid | None:
    """Align the turns with a branch, from its root (or its topmost node that was read) down.

    Returns None if they do not belong there: fewer than two turns are known, and the first is not.
    """
    pairs = _common(turns, branch)
    if not pairs:
        return None
    pairs, replaced = _with_changed(turns, branch, pairs, said)
    if len(pairs) < 2 and pairs[0][1] != 0:
        return None
    ids: list[int | None] = [None] * len(turns)
    for at, number in pairs:
        ids[number] = branch[at].id
    first, last = pairs[0][0], pairs[-1][0]
    after = branch[last + 1] if last + 1 < len(branch) else None
    return Laid(tuple(ids), tuple(branch[first : last + 1]), after, replaced, len(pairs), pairs[0][1] == 0)


def best(laid: Iterable[Laid | None]) -> Laid | None:
    """The alignment with the most known turns; among equals, one that knows the first turn."""
    return max((one for one in laid if one), key=lambda one: (one.known, one.begins), default=None)


NEAR = 8  # stored turns among which a changed one is searched

Pair = tuple[int, int]  # position on the branch, position in the request


def _common(turns: Sequence[Turn], branch: Sequence[Node]) -> list[Pair]:
    """Positions of the longest common subsequence. The last turn is the current question: it is known only if it
    directly follows the turn before it, as a repeated question.
    """
    stored, sent = [node.digest for node in branch], [turn.digest for turn in turns]
    pairs = [
        (block.src_start + offset, block.dest_start + offset)
        for block in LCSseq.opcodes(stored, sent)
        if block.tag == "equal"
        for offset in range(block.src_end - block.src_start)
    ]
    last = len(turns) - 1
    if pairs and pairs[-1][1] == last and pairs[-2:-1] != [(pairs[-1][0] - 1, last - 1)]:
        pairs.pop()
    return pairs


def _with_changed(
    turns: Sequence[Turn],
    branch: Sequence[Node],
    pairs: list[Pair],
    said: Saying,
) -> tuple[list[Pair], frozenset[int]]:
    """Adds similar turns between known ones, before the first and after the last. Also returns the ids of replaced
    stored turns.
    """
    gaps = list(_gaps(turns, branch, pairs))
    wanted = [branch[at].id for stored, sent, _ in gaps for at in stored if sent]
    contents = said(wanted) if wanted else {}
    found, replaced = list(pairs), set()
    for stored, sent, closed in gaps:
        alike_pairs = _alike(turns, branch, stored, sent, contents)
        found += alike_pairs
        if closed and len(stored) == len(sent):
            same = {at for at, _ in alike_pairs}
            replaced |= {
                branch[at].id
                for at, number in zip(stored, sent, strict=True)
                if at not in same and branch[at].role == turns[number].role
            }
    return sorted(found), frozenset(replaced)


def _gaps(
    turns: Sequence[Turn], branch: Sequence[Node], pairs: Sequence[Pair]
) -> Iterable[tuple[list[int], list[int], bool]]:
    """Gaps between known turns: positions on the branch, in the request, and whether known turns enclose the gap."""
    ends = [(-1, -1), *pairs, (len(branch), len(turns))]
    for number, ((at, i), (next_at, next_i)) in enumerate(pairwise(ends)):
        stored, sent = list(range(at + 1, next_at)), list(range(i + 1, next_i))
        if number == len(pairs):
            sent = sent[:-1]  # the last turn is the current question
        if number == 0:
            stored = stored[-len(sent) :] if sent else []  # a window begins anywhere on its branch
        if stored and sent:
            yield stored, sent, 0 < number < len(pairs)


def _alike(
    turns: Sequence[Turn],
    branch: Sequence[Node],
    stored: Sequence[int],
    sent: Sequence[int],
    contents: Mapping[int, Said],
) -> list[Pair]:
    """Pairs of turns with the same role and similar texts, in order."""
    pairs: list[Pair] = []
    begin = 0
    for number in sent:
        turn = turns[number]
        for at in range(begin, min(len(stored), begin + NEAR)):
            node = branch[stored[at]]
            if node.role == turn.role and node.id in contents and _is_same(turn, contents[node.id]):
                pairs.append((stored[at], number))
                begin = at + 1
                break
    return pairs


def _is_same(turn: Turn, stored: Said) -> bool:
    return alike(turn.role, stored.content, turn.content) and calls_in(stored.payload) == calls_in(turn.payload)
