"""Turns that a client changes affect no other turn. Real PostgreSQL."""

from __future__ import annotations

import copy
import json
import uuid
from typing import Any

import pytest
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conversations import actions
from conversations.models import Exchange, Message
from conversations.querysets import Scope
from conversations.turns import Turn
from tests.integration.test_capture import ask, assistant, user

pytestmark = pytest.mark.django_db

Payload = dict[str, Any]


def reply(asked: actions.Asked, message: Payload, ended: str = Exchange.Ended.ANSWERED) -> None:
    turn = Turn.from_payload(json.dumps(message), message)
    answered = actions.Answered(finished=timezone.now(), ended=ended, status=200, turns=(turn,))
    actions.close_exchange(asked=asked, answered=answered)


def calling(number: int, text: str | None = None) -> Payload:
    function = {"name": "read", "arguments": json.dumps({"file": number})}
    return {"role": "assistant", "content": text, "tool_calls": [{"id": f"c{number}", "function": function}]}


def result(number: int, text: str) -> Payload:
    return {"role": "tool", "tool_call_id": f"c{number}", "content": text}


def stored(scope: Scope) -> tuple[list[str], list[str]]:
    """The contents of a scope's live messages, and of its abandoned ones."""
    rows = Message.objects.in_scope(scope).order_by("id").values_list("content", "abandoned")
    return [text for text, gone in rows if not gone], [text for text, gone in rows if gone]


def scope() -> Scope:
    return Scope("changed", str(uuid.uuid4()))


def converse(where: Scope, turns: int = 4) -> list[Payload]:
    history: list[Payload] = []
    for number in range(turns):
        history.append(user(f"question {number}"))
        reply(ask(history, where), assistant(f"answer {number}"))
        history.append(assistant(f"answer {number}"))
    return history


def test_a_cleared_tool_result_costs_one_turn_at_most() -> None:
    where, history = scope(), [user("Refactor the parser.")]
    for number in range(6):
        reply(ask(history, where), calling(number))
        history += [calling(number), result(number, f"file {number}")]
    history[4] = {**history[4], "content": "[Old tool result content cleared]"}
    reply(ask(history, where), assistant("Done."))
    alive, gone = stored(where)
    assert gone == ["file 1"]
    assert len(alive) == 14


def test_a_changed_turn_is_stored_once_however_often_it_is_resent() -> None:
    where = scope()
    history = converse(where)
    history[2] = user("question 1 in other words")
    for number in range(3):
        history.append(user(f"more {number}"))
        reply(ask(history, where), assistant(f"fine {number}"))
        history.append(assistant(f"fine {number}"))
    alive, gone = stored(where)
    assert sorted(alive) == sorted(message["content"] for message in history)
    assert gone == ["question 1"]


def test_a_summary_that_replaces_old_turns_is_stored_once() -> None:
    where = scope()
    history = [user("In short: questions."), *converse(where)[4:]]
    for number in range(3):
        history.append(user(f"more {number}"))
        reply(ask(history, where), assistant(f"fine {number}"))
        history.append(assistant(f"fine {number}"))
    alive, gone = stored(where)
    assert len(alive) == 8 + 1 + 6
    assert gone == []


def test_a_deleted_pair_abandons_nothing() -> None:
    where = scope()
    history = converse(where)
    reply(ask([*history[:2], *history[4:], user("more")], where), assistant("fine"))
    assert stored(where) == ([*(m["content"] for m in history), "more", "fine"], [])


def test_a_question_in_a_template_is_the_question() -> None:
    where, history = scope(), list[Payload]()
    for number in range(3):
        question = user(f"What about matter {number}?")
        wrapped = user(
            f"### Task:\nAnswer by the context.\n<context>{'x ' * number}</context>\n\n{question['content']}"
        )
        reply(ask([*history, wrapped], where), assistant(f"answer {number}"))
        history += [question, assistant(f"answer {number}")]
    alive, gone = stored(where)
    assert len(alive) == 6
    assert gone == []


def test_an_answer_truncated_by_the_client_is_recognized() -> None:
    where, whole = scope(), "A lighthouse has a lamp, and a keeper who looks after it."
    reply(ask([user("Tell me.")], where), assistant(whole), Exchange.Ended.GONE)
    reply(ask([user("Tell me."), assistant(whole[:20]), user("Shorter.")], where), assistant("It shines."))
    assert stored(where) == (["Tell me.", whole, "Shorter.", "It shines."], [])


def test_replaced_calls_are_new_calls() -> None:
    where = scope()
    reply(ask([user("Time?")], where), calling(1))
    reply(ask([user("Time?"), calling(2), result(2, "12:00")], where), assistant("Noon."))
    payloads = Message.objects.in_scope(where).filter(abandoned=False).values_list("payload", flat=True)
    assert any('"file\\": 2' in payload for payload in payloads)


def test_conversations_that_share_an_answer_stay_separate() -> None:
    where = scope()
    reply(ask([user("hello")], where), assistant("How can I help?"))
    reply(ask([user("hey"), assistant("How can I help?"), user("weather?")], where), assistant("Rain."))
    assert stored(where) == (["hello", "How can I help?", "hey", "How can I help?", "weather?", "Rain."], [])


KINDS = ("cleared", "deleted", "wrapped", "thinking", "ids", "image", "cut", "continued", "spelling")


def edited(history: list[Payload], at: int, kind: str) -> tuple[list[Payload], set[int]] | None:
    """The history with the turn at `at` changed as a client would, and which turns that concerns; None where the kind
    of change does not fit the turn."""
    message, role = copy.deepcopy(history[at]), history[at]["role"]
    if isinstance(message["content"], list):
        return None
    text = message["content"] or ""
    match kind, role:
        case "cleared", "tool":
            message["content"] = "[cleared]"
        case "deleted", "user" if len(history) > 4 and history[at + 1]["role"] == "assistant":
            if history[at + 1].get("tool_calls"):
                return None
            return [*history[:at], *history[at + 2 :]], {at, at + 1}
        case "wrapped", "user":
            message["content"] = f"<context>some context</context>\n\n{text}"
        case "image", "user":
            message["content"] = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": "data:,"}}]
        case "thinking", "assistant" if text:
            message["content"] = f"<think>\nHm.\n</think>\n\n{text}"
        case "ids", "assistant" if message.get("tool_calls"):
            message["tool_calls"][0]["id"] = "other"
        case "cut", "assistant" if len(text) > 8:
            message["content"] = text[:-4]
        case "continued", "assistant" if text:
            message["content"] = f"{text} And more."
        case "spelling", "user" | "assistant" if text:
            message["content"] = text.replace(" ", "\u00a0").replace("\n", "\r\n") + "  "
        case _:
            return None
    return [*history[:at], message, *history[at + 1 :]], {at}


@st.composite
def conversations(draw: st.DrawFn) -> list[Payload]:
    """Questions with answers, some with tool calls; some sentences repeat."""
    history: list[Payload] = []
    for number in range(draw(st.integers(2, 7))):
        history.append(user(draw(st.sampled_from(["go on", f"question {number}\nin two lines", f"question {number}"]))))
        if draw(st.booleans()):
            history += [calling(number), result(number, f"result {number}")]
        history.append(assistant(draw(st.sampled_from(["Fine.", f"The answer to {number} is this."]))))
    return history


@settings(max_examples=60, deadline=None, suppress_health_check=[*HealthCheck])
@given(conversations(), st.data())
def test_a_changed_turn_leaves_all_other_turns_stored_once_and_alive(
    history: list[Payload], data: st.DataObject
) -> None:
    where = scope()
    for at, message in enumerate(history):
        if message["role"] == "assistant":
            reply(ask(history[:at], where), message)
    before = Message.objects.in_scope(where).count()
    changed, untouched = history, list[int | None](range(len(history)))  # places in `history`, None where changed
    for _ in range(data.draw(st.integers(1, 3))):
        at, kind = data.draw(st.integers(0, len(changed) - 2)), data.draw(st.sampled_from(KINDS))
        if attempt := edited(changed, at, kind):
            changed, concerned = attempt
            untouched = [None if i in concerned else n for i, n in enumerate(untouched)]
            if kind == "deleted":
                del untouched[at : at + 2]
    reply(ask([*changed, user("the last question")], where), assistant("the last answer"))
    texts = [message["content"] or "" for message in history]
    unchanged = [texts[n] for n in untouched if n is not None]
    alive, gone = stored(where)
    for text in set(unchanged):
        assert alive.count(text) >= unchanged.count(text), f"{text!r} is no longer alive"
        assert (alive + gone).count(text) <= texts.count(text), f"{text!r} is stored again"
    assert Message.objects.in_scope(where).count() <= before + 2 + 3
