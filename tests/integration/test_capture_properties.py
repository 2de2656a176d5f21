"""Each turn is stored once for random histories and ways of resending them."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conversations.models import Message
from conversations.querysets import Scope
from tests.integration.test_capture import answer, ask, assistant, user

pytestmark = pytest.mark.django_db
ON_DATABASE = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def left(scope: Scope) -> tuple[list[str], int]:
    """The contents of a scope in order, and how many are abandoned."""
    messages = Message.objects.in_scope(scope).order_by("id")
    return list(messages.values_list("content", flat=True)), messages.filter(abandoned=True).count()


@ON_DATABASE
@given(st.lists(st.tuples(st.sampled_from(["yes", "no"]), st.integers(1, 12)), min_size=1, max_size=8))
def test_each_turn_is_stored_once_whatever_window_is_resent(steps: list[tuple[str, int]]) -> None:
    scope, history = Scope("properties", str(uuid.uuid4())), []
    for number, (question, window) in enumerate(steps):
        history.append(user(question))
        asked = ask(history[-window:], scope)
        answer(asked, f"answer {number}")
        history.append(assistant(f"answer {number}"))
    assert left(scope) == ([message["content"] for message in history], 0)


@ON_DATABASE
@given(st.lists(st.tuples(st.integers(1, 12), st.booleans()), min_size=1, max_size=8))
def test_each_turn_is_stored_once_whether_or_not_answers_are_resent(steps: list[tuple[int, bool]]) -> None:
    scope, history = Scope("properties", str(uuid.uuid4())), []
    for number, (window, answers) in enumerate(steps):
        history.append(user(f"question {number}"))
        shown = history[-window:]
        asked = ask([message for message in shown if answers or message["role"] == "user"], scope)
        answer(asked, f"answer {number}")
        history.append(assistant(f"answer {number}"))
    assert left(scope) == ([message["content"] for message in history], 0)


@ON_DATABASE
@given(st.lists(st.integers(0, 2), min_size=1, max_size=12))
def test_interleaved_conversations_of_a_scope_do_not_disturb_each_other(order: list[int]) -> None:
    scope = Scope("properties", str(uuid.uuid4()))
    histories: list[list[dict[str, str]]] = [[], [], []]
    said = []
    for number, which in enumerate(order):
        histories[which].append(user("hello" if not histories[which] else f"question {number}"))
        answer(ask(histories[which], scope), f"answer {number}")
        histories[which].append(assistant(f"answer {number}"))
        said += [message["content"] for message in histories[which][-2:]]
    assert left(scope) == (said, 0)
