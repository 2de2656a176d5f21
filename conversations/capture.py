"""Pure: which messages of a request are new.

Clients resend their whole history, a window of it, or only the new turn, and the stored history must come out the same.
Stored messages form trees: each knows the turn before it (`parent`). The turns of a request are aligned with those
trees, and turns without a match are new:

- The longest prefix of the request that matches a branch is known; the rest grows from the end of it. If something
  grew there already, this is a fork, and the older branch is abandoned.
- A history that the client changed (a cleared tool result, a wrapped question, a summary of old turns) is compared with
  whole branches: each changed turn costs that turn alone (changed.py).
- A single turn has no history to align: it is new, unless it repeats the scope's latest question and that was never
  answered. Then it is a retry. A new one grows from the scope's latest message and is marked as sent alone. That is
  not a fork, and it becomes history once a client resends it as history.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from conversations.changed import Branches, Laid, best, lay
from conversations.turns import Turn


@dataclass(frozen=True, slots=True)
class Known:
    """A stored message, with what the alignment needs to know about its branch."""

    id: int
    digest: bytes
    role: str
    parent: int | None = None
    parent_digest: bytes = b""
    parent_role: str = ""
    parent_first: bool = False  # its parent is the first turn of a conversation
    grandparent: int | None = None
    grandparent_digest: bytes = b""
    answer: int | None = None  # the id of its latest answer
    answered: bool = False  # in full, or an answer is under way
    leaf: bool = True  # no client has continued from here
    alone: bool = False  # sent without history
    abandoned: bool = False
    created: datetime = datetime.min

    @property
    def time(self) -> tuple[datetime, int]:
        """Its place among the scope's messages."""
        return self.created, self.id


@dataclass(frozen=True, slots=True)
class Alignment:
    """The result of aligning a request. `path` includes stored answers that the client left out.

    Any other branch that grows from one of `forks` has been left by the client.
    """

    ids: tuple[int | None, ...]  # for each turn, the stored message; None: it is new
    parent: int | None = None  # what the new turns grow from
    path: frozenset[int] = frozenset()
    forks: frozenset[int] = frozenset()
    replaced: frozenset[int] = frozenset()  # stored turns that the client replaced
    revived: bool = False  # part of the path was abandoned
    joined: bool = False  # part of the path was sent alone and has now been resent as history
    pieced: bool = False  # the turns lie in several trees, whose roots go on from the turns before them


def align(turns: Sequence[Turn], known: Iterable[Known], latest_question: int | None, branches: Branches) -> Alignment:
    """Align the turns of a request, without system prompts, with what is stored.

    `known` are the scope's messages that share a digest with one of the turns; `latest_question` is the id of the
    scope's latest user message. `branches` reads whole branches, for a history that the client changed.
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
    if (changed := _changed(turns, runs, by_id, by_digest, branches)) is not None:
        return changed
    # Prefer a run from the first turn on, then the longest, then a branch that nothing continues.
    start, end, last = runs[0]
    if start == 0 and end == len(turns) - 1 and by_id[last].answered:
        # The client asks for another answer, unless all turns but the last match a branch that ends there: then its
        # window has slid over a sentence that occurs again.
        start, end, last = next(
            (run for run in runs if run[:2] == (0, end - 1) and by_id[run[2]].leaf), (start, end, last)
        )
    if start > 0:
        return Alignment((None,) * len(turns))
    ids: list[int | None] = [None] * len(turns)
    path = _fill(ids, turns, by_id, last, end)
    pieced = False
    while (rest := _rest(turns, runs, by_id, end, last)) is not None:
        begin, end, last = rest
        path |= _fill(ids, turns, by_id, last, end, begin)
        pieced = True
    parent = last
    tail = by_id[last]
    if end + 1 < len(turns) and turns[end + 1].role == tail.role == "user" and tail.answer:
        parent = tail.answer  # the client omitted the answer
        path.add(parent)
    nodes = [by_id[pk] for pk in path if pk in by_id]
    revived = any(node.abandoned for node in nodes)
    # Forks further up were handled when they arose, unless the client returns to an abandoned branch.
    forks = path if revived else {pk for pk in (parent, last, tail.parent) if pk is not None}
    if end == len(turns) - 1:  # asked again: the present answers stay until there is another
        forks = forks - {last}
    joined = any(node.alone and node.parent in path for node in nodes)
    return Alignment(
        tuple(ids), parent, frozenset(path), frozenset(forks), revived=revived, joined=joined, pieced=pieced
    )


def _fill(
    ids: list[int | None], turns: Sequence[Turn], by_id: Mapping[int, Known], last: int, end: int, start: int = 0
) -> set[int]:
    """Put the messages of the run that ends with `last` into `ids`. Returns its path, omitted answers included."""
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
    return path


def _rest(
    turns: Sequence[Turn], runs: Sequence[tuple[int, int, int]], by_id: Mapping[int, Known], end: int, last: int
) -> tuple[int, int, int] | None:
    """The run of at least two turns that goes on where the first one ended, on a later branch of its own.

    That branch came with a window of the history when the turns before it waited in the spool of another server.
    """
    if not by_id[last].leaf:
        return None
    for run in runs:
        if run[0] == end + 1 and run[1] > run[0]:
            ids: list[int | None] = [None] * len(turns)
            _fill(ids, turns, by_id, run[2], run[1], run[0])
            root = by_id[ids[run[0]] or 0]
            if root.parent is None and not root.alone and root.time > by_id[last].time:
                return run
    return None


def _changed(
    turns: Sequence[Turn],
    runs: Sequence[tuple[int, int, int]],
    by_id: Mapping[int, Known],
    by_digest: Mapping[bytes, list[Known]],
    branches: Branches,
) -> Alignment | None:
    """The alignment of a history that the client changed; None if the best run explains all earlier turns, by itself
    or together with a branch that goes on where it ends.
    """
    start, end, last = runs[0]
    tail = last
    while start == 0 and (rest := _rest(turns, runs, by_id, end, tail)) is not None:
        _, end, tail = rest
    unexplained = [turn for at, turn in enumerate(turns[:-1]) if not start <= at <= end]
    went_on = by_id[last].answer is not None or not by_id[last].leaf
    if not unexplained or not (start > 0 or went_on or any(turn.digest in by_digest for turn in unexplained)):
        return None
    reach = {run[1]: run for run in reversed(runs) if run[1] < len(turns) - 1}
    longest = max(runs, key=lambda run: run[1] - run[0])
    anchors = dict.fromkeys([*([reach[max(reach)][2]] if reach else []), longest[2], last])
    found: list[Laid | None] = []
    read: set[int] = set()
    for anchor in anchors:
        if anchor not in read:
            branch = branches.through(anchor, len(turns))
            read.update(node.id for node in branch)
            found.append(lay(turns, branch, branches.said))
    laid = best(found)
    if laid is None or (start == 0 and laid.known <= end + 1):
        return None
    return _along(turns, laid, runs, by_id, by_digest)


def _along(
    turns: Sequence[Turn],
    laid: Laid,
    runs: Sequence[tuple[int, int, int]],
    by_id: Mapping[int, Known],
    by_digest: Mapping[bytes, list[Known]],
) -> Alignment:
    """The alignment of a request that lies along a branch with gaps."""
    tail = laid.path[-1]
    ids = list(laid.ids)
    at_tail = ids.index(tail.id)
    parent, path = tail.id, {node.id for node in laid.path}
    asks_on = at_tail + 1 < len(turns) and turns[at_tail + 1].role == tail.role == "user"
    if asks_on and laid.after and laid.after.role == "assistant":  # the client left the answer out
        parent = laid.after.id
        path.add(parent)
    pieced = _fill_gaps(ids, turns, runs, by_id)
    for at, turn in enumerate(turns):
        if ids[at] is None:  # a version from an earlier request
            before = parent if at == at_tail + 1 else ids[at - 1] if at else None
            versions = [known for known in by_digest.get(turn.digest, ()) if known.parent == before]
            if versions and (at > 0 or len(turns) > 1) and (before is not None or at == 0):
                ids[at] = versions[0].id
    known = {pk for pk in ids if pk is not None}
    if ids[-1] is None:
        last_known = max(at for at, pk in enumerate(ids) if pk is not None)
        parent = parent if last_known == at_tail else ids[last_known] or parent
    revived = any(node.abandoned and node.id in known for node in laid.path)
    forks = frozenset(path) if revived else frozenset({parent, tail.id})
    if ids[-1] is not None:
        forks -= {ids[-1]}
    return Alignment(
        ids=tuple(ids),
        parent=parent,
        path=frozenset(path | known),
        forks=forks,
        replaced=laid.replaced - known,
        revived=revived,
        joined=any(node.alone and node.id in known for node in laid.path),
        pieced=pieced,
    )


def _fill_gaps(
    ids: list[int | None], turns: Sequence[Turn], runs: Sequence[tuple[int, int, int]], by_id: Mapping[int, Known]
) -> bool:
    """Put whole trees that lie in a gap of the branch into `ids`. Returns whether there are any.

    They came with a window of the history, or alone, while the turns before them waited in the spool of a server. So
    nothing goes on from them, and they have at least two turns.
    """
    filled = False
    for begin, end, last in runs:
        if begin < end and by_id[last].leaf and all(ids[at] is None for at in range(begin, end + 1)):
            tree = list(ids)
            _fill(tree, turns, by_id, last, end, begin)
            root, before = by_id[tree[begin] or 0], by_id.get((ids[begin - 1] if begin else None) or 0)
            if root.parent is None and (before is None or root.time > before.time):
                ids[:] = tree
                filled = True
    return filled


def _runs(
    turns: Sequence[Turn], by_id: Mapping[int, Known], by_digest: Mapping[bytes, list[Known]]
) -> list[tuple[int, int, int]]:
    """Runs of turns that match a branch, as (first turn, last turn, id of the last message), best first."""
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
    """The stored message right before `message` that matches `wanted`; an omitted answer is skipped."""
    if message.parent_digest == wanted.digest:
        return by_id.get(message.parent or 0)
    skips_answer = message.parent_role == "assistant" and wanted.role == "user"
    if skips_answer and message.grandparent_digest == wanted.digest:
        return by_id.get(message.grandparent or 0)
    return None
