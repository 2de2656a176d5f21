"""Pure: plain rankings to compare the formula with, on the same frame.

    dense   cosine of the message's best piece and the query as it was asked
    bm25    BM25 (k1 1.2, b .75) of the message
    rrf     reciprocal rank fusion of both (k 60; Cormack et al., 2009)

If one of them is better than the formula on some kind of conversation, the formula is fitted to other kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from conversations.recall.ranking import Floats, Frame, bm25

FUSION = 60


def dense(frame: Frame) -> Floats:
    return np.nan_to_num(frame.cosines)


def by_words(frame: Frame) -> Floats:
    return bm25(frame.counts, frame.lengths, frame.rarity, k1=1.2, b=0.75)


def fusion(frame: Frame) -> Floats:
    return _reciprocal_ranks(dense(frame)) + _reciprocal_ranks(by_words(frame))


def _reciprocal_ranks(scores: Floats) -> Floats:
    """1 / (k + rank) of each message, the latest first among equals; 0 for messages that score nothing."""
    order = np.lexsort((-np.arange(len(scores)), -scores))
    found = np.zeros(len(scores))
    found[order] = 1 / (FUSION + np.arange(1, len(scores) + 1))
    return np.where(scores > 0, found, 0.0)


BASELINES: Mapping[str, Callable[[Frame], Floats]] = {"dense": dense, "bm25": by_words, "rrf": fusion}
