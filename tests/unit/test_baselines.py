"""Plain rankings that the formula is compared with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from conversations.recall.baselines import BASELINES
from conversations.recall.ranking import idf
from tests.unit.test_ranking import frame

FRAME = frame([2, 0, 1, 0], cosines=[0.1, 0.9, 0.5, np.nan], lengths=[10, 10, 10, 10])


def order(name: str) -> list[int]:
    scores = BASELINES[name](FRAME)
    return [int(place) for place in np.argsort(-scores, kind="stable") if scores[place] > 0]


def test_each_baseline_ranks_by_what_it_is_named_after() -> None:
    assert order("dense") == [1, 2, 0]
    assert order("bm25") == [0, 2]
    assert order("rrf")[:2] == [0, 2]


def test_rrf_adds_the_reciprocal_ranks() -> None:
    assert BASELINES["rrf"](FRAME) == pytest.approx([1 / 63 + 1 / 61, 1 / 61, 1 / 62 + 1 / 62, 0])


def test_bm25_prefers_short_messages() -> None:
    both = replace(
        FRAME, counts=np.array([[1.0, 1, 0, 0]]), rarity=idf(np.array([2]), 4), lengths=np.array([5.0, 50, 9, 9])
    )
    assert BASELINES["bm25"](both)[0] > BASELINES["bm25"](both)[1] > 0
