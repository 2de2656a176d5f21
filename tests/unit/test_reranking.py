"""The order of a reranker, put upon what the formula found."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversations.recall.reranking import NAME, reranked
from conversations.recall.search import RELEVANT, Candidate, Part
from conversations.reranker import Reranker


def candidates(scores: list[float]) -> list[Candidate]:
    """As recall finds them: best first."""
    ordered = sorted(scores, reverse=True)
    return [
        Candidate(
            id=id_,
            role="user",
            name="",
            created=datetime(2026, 1, 1, tzinfo=UTC),
            content=f"text {id_}",
            digest=str(id_).encode(),
            start=0,
            end=6,
            score=score,
            relevant=score >= RELEVANT * ordered[0],
            parts={"vector": Part(id_ + 1, score)},
        )
        for id_, score in enumerate(ordered)
    ]


def test_the_message_that_the_reranker_puts_first_has_the_best_score() -> None:
    found = candidates([2.0, 1.5, 0.5])
    order = reranked(found, [0.1, 0.2, 0.9])
    assert [(each.id, each.score, each.relevant) for each in order] == [(2, 2.0, True), (1, 1.5, True), (0, 0.5, False)]
    assert [each.parts[NAME] for each in order] == [Part(1, 1.5), Part(2, 0.0), Part(3, -1.5)]


SCORES = st.lists(st.floats(0.01, 5), min_size=1, max_size=20)


@given(SCORES, st.data())
def test_scores_stay_the_same_in_number_and_each_is_the_sum_of_its_parts(
    scores: list[float], data: st.DataObject
) -> None:
    found = candidates(scores)
    count = data.draw(st.integers(0, len(found)))
    relevances = data.draw(st.lists(st.floats(-9, 9), min_size=count, max_size=count))
    order = reranked(found, relevances)
    assert [each.score for each in order] == [each.score for each in found]
    assert sorted(each.id for each in order) == list(range(len(found)))
    assert [each.id for each in order[:count]] == sorted(range(count), key=lambda id_: (-relevances[id_], id_))
    assert [each.relevant for each in order] == [each.relevant for each in found]
    for each in order:
        assert each.score == pytest.approx(sum(part.score for part in each.parts.values()))


@pytest.mark.parametrize("spec", ["rerank", "ftp://host/rerank#m", "https://#m", "https://me:secret@host/rerank#m"])
def test_an_invalid_setting_is_refused_with_the_remedy(spec: str) -> None:
    with pytest.raises(ValueError, match="write it as") as caught:
        Reranker(spec, api_key=None)
    assert "secret" not in str(caught.value)
