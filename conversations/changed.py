"""Pure: histories that a client changed are laid along what is stored, so that a changed turn costs that turn alone.

Clients clear old tool results, delete pairs, wrap questions in templates, cut answers short and leave images out. A
branch and the request are therefore compared by their longest common subsequence, not by their longest common
beginning. Between two turns that both sides have, what is alike is the same turn; a turn in the place of another is
its new version, and only the old version is abandoned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

from rapidfuzz.distance import LCSseq

from conversations.likeness import alike
from conversations.turns import Turn, calls_in


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
        """The branch that a message lies on, from the root down: what was said before it, as far up as a request of so
        many turns may reach, and what came after it.
        """

    def said(self, ids: Sequence[int]) -> Mapping[int, Said]:
        """What messages say, by id."""


@dataclass(frozen=True, slots=True)
class Laid:
    """A request along one branch.

    `ids` has for each turn its stored message's id or None, `path` the branch's nodes from the first known turn to the
    last, `after` the node that follows them, `replaced` the stored turns that a new version takes the place of, and
    `known` how many turns are known.
    """

    ids: tuple[int | None, ...]
    path: tuple[Node, ...]
    after: Node | None
    replaced: frozenset[int]
    known: int
    begins: bool  # the first turn is known


def lay(turns: Sequence[Turn], branch: Sequence[Node], said: Saying) -> Laid | None:
    """Lay the turns along a branch, from its root (or as far up as was read) down. None where they do not belong there:
    fewer than two turns are known, and the first is not.
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
    """The one that knows most turns; of equals the one that knows the first."""
    return max((one for one in laid if one), key=lambda one: (one.known, one.begins), default=None)


NEAR = 8  # turns that a changed one is looked for among

Pair = tuple[int, int]  # place on the branch, place in the request


def _common(turns: Sequence[Turn], branch: Sequence[Node]) -> list[Pair]:
    """Places of the longest common subsequence. The last turn is asked now: it is known only where it comes right after
    the turn before it, asked again.
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
    """Adds the turns that are alike between two known ones, before the first and after the last; and the stored turns
    that another one has taken the place of.
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
    """(places on the branch, places in the request, whether known turns stand on both sides) between known turns."""
    ends = [(-1, -1), *pairs, (len(branch), len(turns))]
    for number, ((at, i), (next_at, next_i)) in enumerate(pairwise(ends)):
        stored, sent = list(range(at + 1, next_at)), list(range(i + 1, next_i))
        if number == len(pairs):
            sent = sent[:-1]  # the last turn is asked now
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
    """Pairs of turns of one role whose texts are alike, in order."""
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
