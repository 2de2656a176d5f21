from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np

from console.conversation.threads import Vector, sessions, threads

START = datetime(2026, 5, 1, tzinfo=UTC)
A, B, C = (np.eye(3, dtype=np.float32)[i] for i in range(3))


def near(one: Vector, other: Vector, cosine: float) -> Vector:
    """A vector of length 1 at this cosine from `one`, towards `other`."""
    return np.asarray(cosine * one + np.sqrt(1 - cosine**2) * other, dtype=np.float32)


def test_a_long_gap_separates_two_sessions() -> None:
    times = [START + timedelta(hours=hours) for hours in (0, 1, 4.9, 9, 9.1)]
    assert sessions(times) == [0, 0, 0, 3, 3]
    assert sessions([]) == []


def test_consecutive_messages_stay_together_while_they_are_similar() -> None:
    assert threads([A, near(A, B, 0.5), B, C]) == [0, 0, 0, 3]
    assert threads([A, near(A, B, 0.5)], similar=0.6) == [0, 1]


def test_a_message_may_join_a_thread_by_its_topic() -> None:
    aside = near(A, C, 0.35)
    back = near(A, B, 0.8)
    assert float(aside @ back) < 0.3 < float(back @ A)
    assert threads([A, A, aside, back]) == [0, 0, 0, 0]


def test_an_answer_always_joins_its_question() -> None:
    assert threads([A, B, C, C], begins=[True, False, True, False]) == [0, 0, 2, 2]


def test_a_message_without_a_vector_joins_its_neighbours() -> None:
    assert threads([None, A, None, B, None]) == [0, 0, 0, 3, 3]


def test_a_break_always_ends_a_thread() -> None:
    assert threads([A, A, A, A], breaks=[0, 2]) == [0, 0, 2, 2]
    assert threads([A, A, B], begins=[False, False, False], breaks=[1]) == [0, 1, 1]


def test_no_messages_have_no_threads() -> None:
    assert threads([]) == []
