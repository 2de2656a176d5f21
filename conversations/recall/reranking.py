"""Pure: the order of a reranker, put upon the messages that the formula found.

A reranker reads the query and a message together, which is dearer and finer than comparing their vectors. Endpoints
score on scales of their own, so only the order counts: the formula's scores are dealt out anew, the highest to the
message that the reranker puts first. What each message gains or loses is a part of its score like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf

from conversations.recall.search import Candidate, Part

FIRST = 50  # messages that are reranked
NAME = "reranker"


def reranked(found: Sequence[Candidate], relevances: Sequence[float]) -> list[Candidate]:
    """The messages in the order of their relevances, which are those of the first `len(relevances)`.

    Among equally relevant ones, the formula decides. Standing wishes stay relevant, as they are for any query.
    """
    order = sorted(range(len(relevances)), key=lambda place: (-relevances[place], place))
    bar = min((each.score for each in found if each.relevant and not each.is_wish), default=inf)
    moved = []
    for rank, (place, score) in enumerate(zip(order, [each.score for each in found], strict=False), 1):
        each = found[place]
        parts = {**each.parts, NAME: Part(rank, score - each.score)}
        relevant = score >= bar or each.is_wish
        moved.append(replace(each, score=score, relevant=relevant, parts=parts))
    return [*moved, *found[len(moved) :]]
