"""Exchanges that are stored late leave what they would have left in time: with several servers, each with its spool."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import zip_longest
from typing import Any

import pytest
from django.utils import timezone
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from conversations import actions
from conversations.models import Exchange, Instance, Message
from conversations.querysets import Scope
from conversations.turns import Turn
from tests.integration.test_capture import assistant, user
from tests.integration.test_capture_properties import ON_DATABASE

GENERATED = settings(ON_DATABASE, phases=[Phase.generate], max_examples=25)  # shrinking takes minutes

pytestmark = pytest.mark.django_db

Json = dict[str, Any]


@dataclass(frozen=True)
class Said:
    """One exchange of a conversation."""

    asked: actions.Asked
    answered: actions.Answered


def turn(message: Json) -> Turn:
    return Turn.from_payload(json.dumps(message), message)


def said(scope: Scope, messages: Sequence[Json], answer: str | None, moment: datetime) -> Said:
    """An exchange that began at the moment and was answered half a second later, or failed."""
    asked = actions.Asked(
        trace_id=uuid.uuid4(),
        scope=scope,
        created=moment,
        model="gpt-4",
        provider="openai",
        streamed=False,
        turns=tuple(map(turn, messages)),
    )
    ended = Exchange.Ended.FAILED if answer is None else Exchange.Ended.ANSWERED
    turns = () if answer is None else (turn(assistant(answer)),)
    return Said(asked, actions.Answered(finished=moment + timedelta(seconds=0.5), ended=ended, turns=turns))


def store(one: Said) -> None:
    """In time, as a server does whose database answers."""
    actions.open_exchange(asked=one.asked)
    actions.close_exchange(asked=one.asked, answered=one.answered, opened=True)


def replay(one: Said) -> None:
    actions.close_exchange(asked=one.asked, answered=one.answered, replayed=True)


def left(scope: Scope, exchanges: Sequence[Said]) -> list[Any]:
    """What is stored in the order of time, with texts instead of ids, and the scope's counters."""
    number = {one.asked.trace_id: at for at, one in enumerate(exchanges)}
    found: list[Any] = [
        (
            message.role,
            message.content,
            message.parent.content if message.parent else None,
            message.abandoned,
            message.created,
            number[message.exchange.trace_id] if message.exchange else None,
        )
        for message in Message.objects.in_scope(scope).select_related("parent", "exchange").order_by("created", "id")
    ]
    for exchange in Exchange.objects.in_scope(scope).select_related("question").order_by("created"):
        question = exchange.question.content if exchange.question else None
        found.append(
            (number[exchange.trace_id], question, len(exchange.request_ids), exchange.ended, exchange.finished)
        )
    instance = Instance.objects.of_scope(scope).get()
    return [*found, instance.message_count, instance.exchange_count, instance.last_active]


def conversation(scope: Scope, windows: Sequence[int], begin: datetime, *, texts: Sequence[str] = ()) -> list[Said]:
    """A client with one conversation. Each request resends the number of turns that `windows` has for it."""
    history: list[Json] = []
    exchanges = []
    for number, window in enumerate(windows):
        question = user(texts[number] if texts else f"question {number}")
        answer = f"answer {number}"
        moment = begin + timedelta(seconds=number)
        exchanges.append(said(scope, [*history[len(history) - min(window, len(history)) :], question], answer, moment))
        history += [question, assistant(answer)]
    return exchanges


def in_two_orders(windows: Sequence[int], order: Sequence[int], **given: Any) -> tuple[list[Any], list[Any]]:
    """What is left of a conversation whose exchanges are stored in time, and in this order."""
    begin = timezone.now() - timedelta(hours=2)
    punctual, late = (Scope(name, str(uuid.uuid4())) for name in ("punctual", "late"))
    in_time = conversation(punctual, windows, begin, **given)
    for one in in_time:
        store(one)
    delayed = conversation(late, windows, begin, **given)
    latest = -1
    for at in order:
        (store if at > latest else replay)(delayed[at])
        latest = max(at, latest)
    return left(punctual, in_time), left(late, delayed)


def differences(wanted: list[Any], found: list[Any]) -> list[Any]:
    return [pair for pair in zip_longest(wanted, found) if pair[0] != pair[1]]


@pytest.mark.parametrize("windows", [(0, 0, 0, 0), (9, 9, 9, 9), (0, 9, 0, 9), (0, 2, 4, 2), (0, 0, 2, 9)])
@pytest.mark.parametrize("order", [(0, 2, 3, 1), (1, 2, 3, 0), (2, 3, 0, 1), (3, 2, 1, 0), (0, 3, 1, 2), (3, 1, 2, 0)])
def test_the_order_of_storing_leaves_no_trace(windows: tuple[int, ...], order: tuple[int, ...]) -> None:
    in_time, late = in_two_orders(windows, order)
    assert differences(in_time, late) == []


@pytest.mark.parametrize(
    ("windows", "order"),
    [
        ((99, 2, 2, 4, 4), (4, 3, 2, 0, 1)),  # a window's first turns are new, and what follows it is there
        ((2, 4, 4, 0, 4, 4), (0, 1, 2, 5, 4, 3)),  # a window spans the ends of one tree and of a later one
        ((0, 0, 99, 2, 99, 99, 2), (1, 3, 4, 0, 2, 6, 5)),  # a whole history spans a tree of one question
        ((2, 99, 0, 4, 2, 99, 2), (0, 2, 3, 4, 5, 6, 1)),  # a tree lies in a gap of a branch
        ((4, 99, 0, 4, 4, 4, 2, 99), (0, 3, 2, 6, 4, 7, 5, 1)),  # a history spans three trees
    ],
)
def test_windows_of_a_history_are_joined(windows: tuple[int, ...], order: tuple[int, ...]) -> None:
    in_time, late = in_two_orders(windows, order)
    assert differences(in_time, late) == []


@GENERATED
@given(st.lists(st.tuples(st.sampled_from([0, 0, 2, 4, 99]), st.floats(0, 8)), min_size=2, max_size=9))
def test_whatever_is_delayed_each_turn_is_there_once_in_order_in_one_line(steps: list[tuple[int, float]]) -> None:
    windows = [window for window, _ in steps]
    order = sorted(range(len(steps)), key=lambda at: (at + steps[at][1], at))
    in_time, late = in_two_orders(windows, order)
    assert differences(in_time, late) == []


@GENERATED
@given(st.booleans(), st.lists(st.tuples(st.sampled_from(["yes", "no"]), st.floats(0, 4)), min_size=2, max_size=7))
def test_repeated_sentences_stay_turns_of_their_own(whole: bool, steps: list[tuple[str, float]]) -> None:
    order = sorted(range(len(steps)), key=lambda at: (at + steps[at][1], at))
    in_time, late = in_two_orders([99 if whole else 0] * len(steps), order, texts=[text for text, _ in steps])
    assert differences(in_time, late) == []
