"""proxy/evaluation/measures.py: figures of small cases, checked against values worked out by hand."""

from __future__ import annotations

import math

import pytest

from proxy.evaluation.measures import Answer, by, figures, rendered_share


def answer(evidence: str, ranking: str, *, tokens: int = 46, rendered: str = "", ms: float = 1.0) -> Answer:
    """Messages are letters; each has the same number of tokens."""
    return Answer(
        category="pets",
        conversation="a",
        evidence=frozenset(evidence),
        ranking=tuple(ranking),
        tokens=(tokens,) * len(ranking),
        rendered=frozenset(rendered),
        rendered_tokens=10 * len(rendered),
        milliseconds=ms,
    )


def test_recall_is_the_share_of_the_evidence_among_the_first() -> None:
    found = figures([answer("aefx", "abcdefghijklmnopqrstuvwxyz")])
    assert (found["recall@5"], found["recall@10"], found["recall@20"]) == (0.5, 0.75, 0.75)


def test_all_questions_have_the_same_weight() -> None:
    found = figures([answer("a", "ab"), answer("abyz", "xab")])
    assert found["recall@10"] == 0.75
    assert (found["any@10"], found["all@10"]) == (1.0, 0.5)
    assert found["questions"] == 2


def test_mrr_depends_only_on_the_first_piece_of_evidence() -> None:
    assert figures([answer("cd", "abcd"), answer("z", "abcd")])["mrr"] == pytest.approx((1 / 3 + 0) / 2)


def test_ndcg_is_one_for_the_best_order_and_discounts_by_rank() -> None:
    assert figures([answer("ab", "bac")])["ndcg@10"] == pytest.approx(1)
    worse = (1 / math.log2(3) + 1 / math.log2(4)) / (1 + 1 / math.log2(3))
    assert figures([answer("ab", "xab")])["ndcg@10"] == pytest.approx(worse)
    many = "abcdefghijkl"
    assert figures([answer(many, many)])["ndcg@10"] == pytest.approx(1), "no more than ten can stand among ten"


def test_a_budget_counts_four_tokens_besides_each_content() -> None:
    twenty = "abcdefghijklmnopqrst"
    assert figures([answer("t", twenty, tokens=46)])["recall@1000tok"] == 1
    assert figures([answer("t", twenty, tokens=47)])["recall@1000tok"] == 0
    assert figures([answer("t", twenty, tokens=47)])["recall@2000tok"] == 1


def test_messages_that_do_not_fit_a_budget_are_skipped() -> None:
    long = Answer("pets", "a", frozenset("b"), ("a", "b"), (1500, 10), frozenset(), 0, 1.0)
    assert figures([long])["recall@1000tok"] == 1


def test_the_block_is_measured_as_rendered() -> None:
    answers = [answer("ab", "ab", rendered="a"), answer("a", "a", rendered="abc")]
    assert rendered_share(answers) == 0.75
    assert figures(answers)["mean_tokens"] == 20


def test_percentiles_of_time_are_times_that_were_measured() -> None:
    found = figures([answer("a", "a", ms=float(ms)) for ms in range(100, 0, -1)])
    assert (found["p50_ms"], found["p95_ms"]) == (50, 95)
    assert figures([answer("a", "a", ms=7.0)])["p95_ms"] == 7


def test_nothing_found_is_zero_not_an_error() -> None:
    found = figures([answer("a", "")])
    assert {found[key] for key in ("recall@10", "any@10", "all@10", "ndcg@10", "mrr", "recall@1000tok")} == {0}


def test_answers_are_grouped_in_the_order_of_names() -> None:
    first, second = answer("a", "a"), answer("b", "b")
    assert by("category", [first, second]) == {"pets": [first, second]}
