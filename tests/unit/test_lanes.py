"""Questions and messages before one model: who goes first, and what runs together."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

from conversations.embedders import lanes as module
from conversations.embedders.base import Vectors
from conversations.embedders.lanes import BATCH_TOKENS, Ids, Lanes

ENOUGH = 300.0  # seconds; an ample bound for immediate events


class Model:
    """Gives each text the vector [its first token]. Its runs can be held up; it records them."""

    def __init__(self) -> None:
        self.runs: list[list[int]] = []
        self.priorities: set[int] = set()
        self.begun = threading.Semaphore(0)
        self.go = threading.Event()

    def __call__(self, rows: Sequence[Ids]) -> Vectors:
        self.runs.append([row[0] for row in rows])
        self.begun.release()
        assert self.go.wait(ENOUGH)
        if any(row[0] < 0 for row in rows):
            raise ValueError("a text that cannot be embedded")
        return np.array([[row[0]] for row in rows], np.float32)

    def until_begun(self) -> None:
        assert self.begun.acquire(timeout=ENOUGH)


@pytest.fixture
def model() -> Iterator[Model]:
    model = Model()
    yield model
    model.go.set()


@pytest.fixture
def callers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def numbers(vectors: list[Vectors]) -> list[int]:
    return [int(vector[0]) for vector in vectors]


def until_waiting(lane: list[module._Row], count: int) -> None:
    for _ in range(int(ENOUGH * 1000)):
        if len(lane) == count:
            return
        threading.Event().wait(0.001)
    pytest.fail(f"{len(lane)} texts wait instead of {count}")


def test_what_waits_runs_together_across_threads(model: Model, callers: ThreadPoolExecutor) -> None:
    lanes = Lanes(model)
    first = callers.submit(lanes.questions, [[1] * 8])
    model.until_begun()
    others = [callers.submit(lanes.questions, [[number] * 8]) for number in (2, 3, 4, 5)]
    until_waiting(lanes._questions, 4)
    model.go.set()
    assert [numbers(each.result(ENOUGH)) for each in (first, *others)] == [[1], [2], [3], [4], [5]]
    assert model.runs[0] == [1] and sorted(model.runs[1]) == [2, 3, 4, 5] and len(model.runs) == 2


def test_a_question_goes_before_every_message_that_waits(model: Model, callers: ThreadPoolExecutor) -> None:
    lanes = Lanes(model)
    long = [[number] * BATCH_TOKENS for number in range(1, 6)]  # a run for each
    messages = callers.submit(lanes.messages, long)
    model.until_begun()
    question = callers.submit(lanes.questions, [[100]])
    model.until_begun()  # beside the run of a message that has begun
    assert model.runs == [[1], [100]]
    model.go.set()
    assert numbers(question.result(ENOUGH)) == [100]
    assert numbers(messages.result(ENOUGH)) == [1, 2, 3, 4, 5]


def test_no_message_begins_while_a_question_runs(
    model: Model, callers: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LONGEST_WAIT", ENOUGH)
    lanes = Lanes(model)
    question = callers.submit(lanes.questions, [[100]])
    model.until_begun()
    message = callers.submit(lanes.messages, [[1]])
    until_waiting(lanes._messages, 1)
    assert model.runs == [[100]] and not message.done()
    model.go.set()
    assert numbers(question.result(ENOUGH)) == [100] and numbers(message.result(ENOUGH)) == [1]


def test_an_endless_row_of_questions_does_not_stop_messages(
    model: Model, callers: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LONGEST_WAIT", 0.01)
    lanes = Lanes(model)
    question = callers.submit(lanes.questions, [[100]])
    model.until_begun()
    message = callers.submit(lanes.messages, [[1]])
    model.until_begun()  # though the question is still running
    model.go.set()
    assert numbers(question.result(ENOUGH)) == [100] and numbers(message.result(ENOUGH)) == [1]


def test_a_batch_holds_texts_of_similar_length_and_the_oldest_goes_first(
    model: Model, callers: ThreadPoolExecutor
) -> None:
    model.go.set()
    lengths = [100, 3, 4, 110, 3, 90, 256, 2]
    lanes = Lanes(model)
    assert numbers(lanes.messages([[number] * length for number, length in enumerate(lengths)])) == [*range(8)]
    for run in model.runs:
        assert len(run) * max(lengths[number] for number in run) <= BATCH_TOKENS
    assert 0 in model.runs[0] and len(model.runs) < len(lengths)


def test_an_error_reaches_those_whose_texts_were_in_the_run_and_no_others(
    model: Model, callers: ThreadPoolExecutor
) -> None:
    lanes = Lanes(model)
    first = callers.submit(lanes.questions, [[1]])
    model.until_begun()
    waiting: list[Future[list[Vectors]]] = [
        callers.submit(lanes.questions, [[number] * length]) for number, length in ((-1, 9), (2, 9), (3, BATCH_TOKENS))
    ]
    until_waiting(lanes._questions, 3)
    model.go.set()
    assert numbers(first.result(ENOUGH)) == [1] and numbers(waiting[2].result(ENOUGH)) == [3]
    for each in waiting[:2]:
        with pytest.raises(ValueError, match="cannot be embedded"):
            each.result(ENOUGH)
    assert numbers(lanes.questions([[4]])) == [4] and not lanes._questions


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a priority for each thread")
def test_messages_run_at_a_low_priority_and_questions_at_that_of_the_process() -> None:
    def priority(rows: Sequence[Ids]) -> Vectors:
        return np.full((len(rows), 1), os.getpriority(os.PRIO_PROCESS, threading.get_native_id()), np.float32)

    lanes = Lanes(priority)
    here = os.getpriority(os.PRIO_PROCESS, 0)
    assert numbers(lanes.questions([[1]])) == [here]
    assert numbers(lanes.messages([[1]])) == [max(here, module.NICE)]
