"""The messages that recall found, and those that it should have found -> figures. Pure.

Shares are from 0 to 1, times in milliseconds. All questions have the same weight.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

OVERHEAD = 4  # tokens that a message counts besides its content, in recall@...tok


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of recall for one question: distinct message ids, best first, with the tokens of their contents."""

    category: str
    conversation: str
    evidence: frozenset[str]
    ranking: tuple[str, ...]
    tokens: tuple[int, ...]
    rendered: frozenset[str]  # ids of the messages in the block, under default settings
    rendered_tokens: int
    milliseconds: float


def figures(answers: Sequence[Answer]) -> dict[str, float]:
    """Averages over the questions; there must be at least one."""
    times = sorted(answer.milliseconds for answer in answers)
    return {
        **{f"recall@{k}": _mean(_share(a, a.ranking[:k]) for a in answers) for k in (5, 10, 20)},
        "any@10": _mean(bool(a.evidence & {*a.ranking[:10]}) for a in answers),
        "all@10": _mean(a.evidence <= {*a.ranking[:10]} for a in answers),
        "ndcg@10": _mean(_ndcg(a, 10) for a in answers),
        "mrr": _mean(_reciprocal_rank(a) for a in answers),
        **{f"recall@{budget}tok": _mean(_share(a, _within(a, budget)) for a in answers) for budget in (1000, 2000)},
        "recall@block": rendered_share(answers),
        "mean_tokens": _mean(a.rendered_tokens for a in answers),
        "p50_ms": _percentile(times, 50),
        "p95_ms": _percentile(times, 95),
        "questions": len(answers),
    }


def rendered_share(answers: Sequence[Answer]) -> float:
    """The share of the evidence that the memory block contains, under default settings."""
    return _mean(_share(a, a.rendered) for a in answers)


def by(key: str, answers: Iterable[Answer]) -> Mapping[str, list[Answer]]:
    """The answers by `category` or `conversation` (`key`), ordered by name."""
    groups: dict[str, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(getattr(answer, key), []).append(answer)
    return dict(sorted(groups.items()))


def _share(answer: Answer, ids: Iterable[str]) -> float:
    return len(answer.evidence.intersection(ids)) / len(answer.evidence)


def _within(answer: Answer, budget: int) -> list[str]:
    """The messages that fit the budget, in rank order; longer ones are skipped."""
    packed = []
    for id_, tokens in zip(answer.ranking, answer.tokens, strict=True):
        if tokens + OVERHEAD <= budget:
            budget -= tokens + OVERHEAD
            packed.append(id_)
    return packed


def _ndcg(answer: Answer, k: int) -> float:
    gain = sum(1 / math.log2(rank + 1) for rank, id_ in enumerate(answer.ranking[:k], 1) if id_ in answer.evidence)
    return gain / sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(answer.evidence)) + 1))


def _reciprocal_rank(answer: Answer) -> float:
    return next((1 / rank for rank, id_ in enumerate(answer.ranking, 1) if id_ in answer.evidence), 0.0)


def _mean(values: Iterable[float]) -> float:
    listed = [float(value) for value in values]
    return sum(listed) / len(listed)


def _percentile(ordered: Sequence[float], percent: int) -> float:
    """The smallest value that `percent` of the values do not exceed."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
