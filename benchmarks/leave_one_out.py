"""How well does the formula do on a conversation that its weights have not seen?

    python -m benchmarks.leave_one_out locomo-dev.json

For each conversation of a file, the weights are fitted to all others and measured on that one. They are fitted by
coordinate descent: starting from equal weights, each in turn takes the value of the grid that finds the most evidence
in the first ten results, until none changes. The parts of the formula stay as they are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.home import home

START = 0.5
GRID = tuple(round(0.2 * step, 1) for step in range(8))  # 0 to 1.4, or 0 to -1.4 for the part that is subtracted
SUBTRACTED = ("question", "short")
ROUNDS = 6
DEPTH = 200

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with the unweighted parts of the formula: one row a part, one column a distinct message."""

    conversation: str
    category: str
    parts: Floats
    ids: tuple[str, ...]
    wanted: NDArray[np.bool_]
    evidence: frozenset[str]


def main() -> None:
    parser = argparse.ArgumentParser(description="Leave-one-conversation-out figures of recall.")
    parser.add_argument("file", type=Path, help="conversations and questions, see docs/recall.md")
    arguments = parser.parse_args()
    with home():
        asked, sizes = collect(arguments.file)
        report(asked, sizes)


def collect(file: Path) -> tuple[list[Asked], dict[str, dict[str, int]]]:
    """Every question of the file, and each conversation's message ids with their tokens."""
    from django.conf import settings

    from conversations.embedding import active_embedder
    from conversations.querysets import Scope
    from proxy.evaluation import questions, trial
    from proxy.providers import tokens
    from reservoir_site import database, server

    server.prepare_database()
    tokens.prepare(settings.RESERVOIR_HOME / "tiktoken")
    count = tokens.counter(trial.ENCODING_OF).count
    conversations = questions.read(file.read_text())
    embedder = active_embedder()
    asked = []
    with trial.imported(conversations, embedder, lambda done: None) as imported:
        for conversation in conversations:
            print(f"asking {conversation.id}", file=sys.stderr)
            scope = Scope(imported.partition, conversation.id)
            for question in conversation.questions:
                found = _parts(scope, question.text, embedder)
                ids = tuple(imported.ids[int(id_)] for id_ in found[0])
                wanted = np.array([id_ in question.evidence for id_ in ids])
                asked.append(
                    Asked(conversation.id, question.category, found[1], ids, wanted, question.evidence),
                )
    embedder.close()
    if running := database.embedded():
        running.release()
    return asked, {c.id: {said.id: count(said.content) for said in c.messages} for c in conversations}


def _parts(scope: Any, text: str, embedder: Any) -> tuple[NDArray[np.int64], Floats]:
    """The ids of a scope's messages, latest first, and the parts of their scores over the weights."""
    from conversations.nearest import vector_literal
    from conversations.recall.ranking import WEIGHTS, parts
    from conversations.recall.retrieval import RetrievalRequest, retrieve
    from conversations.recall.search import prepare_query

    query = prepare_query(scope=scope, text=text)
    assert query.instance_id is not None
    vector = vector_literal(embedder.embed([query.wording])[0].tolist())
    request = RetrievalRequest(
        query.instance_id, query.message_count, query.words, vector, embedder.name, for_time=query.for_time
    )
    found = retrieve(request)
    scored = parts(found.frame, query.asked)
    return found.ids[::-1], np.array([scored[name][::-1] / WEIGHTS[name] for name in WEIGHTS])


def found_in_ten(asked: Sequence[Asked], weights: Floats) -> float:
    """R@10 from 0 to 1."""
    shares = []
    for one in asked:
        first = np.argsort(-(weights @ one.parts), kind="stable")[:10]
        shares.append(one.wanted[first].sum() / len(one.evidence))
    return float(np.mean(shares))


def fitted(asked: Sequence[Asked], names: Sequence[str]) -> Floats:
    """The weights, all from the grid, that find the most evidence."""
    weights = np.array([-START if name in SUBTRACTED else START for name in names])
    best = found_in_ten(asked, weights)
    for _ in range(ROUNDS):
        before = best
        for at, name in enumerate(names):
            for value in GRID:
                tried = weights.copy()
                tried[at] = -value if name in SUBTRACTED else value
                if (reached := found_in_ten(asked, tried)) > best:
                    best, weights = reached, tried
        if best == before:
            break
    return weights


def figures(asked: Sequence[Asked], weights: Floats, sizes: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
    """The figures of `manage.py evaluate`, except those of the block and the times."""
    from proxy.evaluation import measures

    answers = []
    for one in asked:
        order = np.argsort(-(weights @ one.parts), kind="stable")[:DEPTH]
        ranking = tuple(one.ids[at] for at in order)
        tokens = tuple(sizes[one.conversation][id_] for id_ in ranking)
        answers.append(
            measures.Answer(one.category, one.conversation, one.evidence, ranking, tokens, frozenset(), 0, 0.0)
        )
    return measures.figures(answers)


def report(asked: Sequence[Asked], sizes: Mapping[str, Mapping[str, int]]) -> None:
    from conversations.recall.ranking import WEIGHTS

    names, committed = tuple(WEIGHTS), np.array([*WEIGHTS.values()])
    keys = ("recall@5", "recall@10", "recall@20", "recall@1000tok", "recall@2000tok")
    print(f"\n{'':14}{'':10}{''.join(f'{key[7:]:>9}' for key in keys)}   weights: {', '.join(names)}")
    totals: dict[str, list[Floats]] = {}
    for left_out in dict.fromkeys(one.conversation for one in asked):
        held = [one for one in asked if one.conversation == left_out]
        others = [one for one in asked if one.conversation != left_out]
        for label, weights in (("unseen", fitted(others, names)), ("as is", committed)):
            reached = figures(held, weights, sizes)
            row = np.array([100 * reached[key] for key in keys])
            totals.setdefault(label, []).append(len(held) * row)
            print(f"{left_out:14}{label:10}{''.join(f'{x:9.1f}' for x in row)}   {weights.round(1).tolist()}")
    for label, rows in totals.items():
        print(f"{'all':14}{label:10}{''.join(f'{x:9.1f}' for x in np.sum(rows, axis=0) / len(asked))}")


if __name__ == "__main__":
    main()
