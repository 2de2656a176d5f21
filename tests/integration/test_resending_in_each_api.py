"""Each turn is stored once in random conversations with tools, however a client of each API writes and resends it."""

from __future__ import annotations

import json
import uuid
from typing import Any, NamedTuple

import pytest
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from conversations import actions
from conversations.models import Exchange, Message
from conversations.querysets import Scope
from conversations.turns import Turn
from proxy.dialects.known import BY_NAME
from proxy.prompt.chat import ChatMessage
from tests.fake_provider import messages, responses
from tests.integration.test_capture_properties import ON_DATABASE, left

pytestmark = pytest.mark.django_db
Json = dict[str, Any]


class Call(NamedTuple):
    """One use of a tool: everything in it differs from that of other calls."""

    number: int

    @property
    def id(self) -> str:
        return f"call_{self.number}"

    @property
    def given(self) -> Json:
        return {"city": "Oslo", "number": self.number}

    @property
    def result(self) -> str:
        return f"{self.number} degrees"


class Round(NamedTuple):
    """A question, the tools that the model calls for it, at once, and its answer."""

    question: str
    calls: tuple[Call, ...]
    answer: str


class Style(NamedTuple):
    """How a client writes what it resends."""

    parts: bool  # texts as lists of parts
    thoughts: bool  # with what the model thought
    marks: bool  # with ids and marks for the cache


styles = st.builds(Style, st.booleans(), st.booleans(), st.booleans())


class InResponses:
    name = "responses"

    def question(self, text: str, style: Style) -> list[Json]:
        item: Json = {"role": "user", "content": [{"type": "input_text", "text": text}] if style.parts else text}
        return [item | ({"type": "message"} if style.marks else {})]

    def calls(self, calls: tuple[Call, ...], style: Style) -> list[Json]:
        items = [responses.call("weather", json.dumps(call.given), call.id) for call in calls]
        return self._said(items, style)

    def results(self, calls: tuple[Call, ...], style: Style) -> list[Json]:
        def output(text: str) -> Any:
            return [{"type": "input_text", "text": text}] if style.parts else text

        return [{"type": "function_call_output", "call_id": c.id, "output": output(c.result)} for c in calls]

    def answer(self, text: str, style: Style) -> list[Json]:
        easy = not style.parts and not style.thoughts
        return [{"role": "assistant", "content": text}] if easy else self._said([responses.message(text)], style)

    def body(self, items: list[Json]) -> Json:
        return {"model": "m", "input": items, "store": False}

    def whole(self, items: list[Json]) -> Json:
        return responses.response(items)

    def _said(self, items: list[Json], style: Style) -> list[Json]:
        said = [responses.thought("x"), *items] if style.thoughts else items
        return said if style.marks else [{k: v for k, v in item.items() if k not in ("id", "status")} for item in said]


class InMessages:
    name = "messages"

    def question(self, text: str, style: Style) -> list[Json]:
        return [{"role": "user", "content": self._text(text, style)}]

    def calls(self, calls: tuple[Call, ...], style: Style) -> list[Json]:
        blocks = [messages.tool_use("weather", call.given, call.id) for call in calls]
        return [{"role": "assistant", "content": [*self._thoughts(style), *blocks]}]

    def results(self, calls: tuple[Call, ...], style: Style) -> list[Json]:
        content = [
            {"type": "tool_result", "tool_use_id": call.id, "content": self._text(call.result, style)} for call in calls
        ]
        return [{"role": "user", "content": content}]

    def answer(self, text: str, style: Style) -> list[Json]:
        thoughts = self._thoughts(style)
        content = [*thoughts, messages.text(text)] if thoughts else self._text(text, style)
        return [{"role": "assistant", "content": content}]

    def body(self, items: list[Json]) -> Json:
        return {"model": "m", "max_tokens": 9, "messages": items}

    def whole(self, items: list[Json]) -> Json:
        (message,) = items
        content = message["content"]
        return messages.message(content if isinstance(content, list) else [messages.text(content)])

    def _thoughts(self, style: Style) -> list[Json]:
        return [messages.thinking("Let me see.", "c2ln")] if style.thoughts else []

    def _text(self, text: str, style: Style) -> Any:
        mark = {"cache_control": {"type": "ephemeral"}} if style.marks else {}
        return [messages.text(text) | mark] if style.parts else text


class InChat:
    name = "chat_completions"

    def question(self, text: str, style: Style) -> list[Json]:
        return [{"role": "user", "content": self._text(text, style)}]

    def calls(self, calls: tuple[Call, ...], style: Style) -> list[Json]:
        functions = [{"name": "weather", "arguments": json.dumps(call.given)} for call in calls]
        made = [
            {"id": call.id, "type": "function", "function": function}
            for call, function in zip(calls, functions, strict=True)
        ]
        return [{"role": "assistant", "content": None, "tool_calls": made} | self._thoughts(style)]

    def results(self, calls: tuple[Call, ...], style: Style) -> list[Json]:
        return [{"role": "tool", "tool_call_id": c.id, "content": self._text(c.result, style)} for c in calls]

    def answer(self, text: str, style: Style) -> list[Json]:
        return [{"role": "assistant", "content": self._text(text, style)} | self._thoughts(style)]

    def body(self, items: list[Json]) -> Json:
        return {"model": "m", "messages": items}

    def whole(self, items: list[Json]) -> Json:
        return {"choices": [{"index": 0, "message": items[0], "finish_reason": "stop"}]}

    def _thoughts(self, style: Style) -> Json:
        return {"reasoning_content": "Let me see."} if style.thoughts else {}

    def _text(self, text: str, style: Style) -> Any:
        return [{"type": "text", "text": text}] if style.parts else text


Api = InResponses | InMessages | InChat
APIS: tuple[Api, ...] = (InResponses(), InMessages(), InChat())
AS_MADE = Style(parts=True, thoughts=True, marks=True)


def written(api: Api, rounds: list[Round], style: Style) -> list[Json]:
    items: list[Json] = []
    for question, calls, answer in rounds:
        items += api.question(question, style)
        if calls:
            items += [*api.calls(calls, style), *api.results(calls, style)]
        items += api.answer(answer, style)
    return items


def ask(api: Api, scope: Scope, items: list[Json], answered: list[Json]) -> None:
    """One exchange, from the bytes of its request and of its answer."""
    dialect = BY_NAME[api.name]
    chat = dialect.decode(json.dumps(api.body(items)).encode())
    asked = actions.Asked(
        trace_id=uuid.uuid4(),
        scope=scope,
        created=timezone.now(),
        model="m",
        provider="p",
        streamed=False,
        dialect=api.name,
        turns=tuple(turn(message) for message in chat.messages),
    )
    actions.open_exchange(asked=asked)
    reply = dialect.reply(json.dumps(api.whole(answered)).encode())
    assert reply.complete
    actions.close_exchange(
        asked=asked,
        answered=actions.Answered(
            finished=timezone.now(),
            ended=Exchange.Ended.ANSWERED,
            status=200,
            turns=tuple(turn(message) for message in reply.messages),
        ),
    )


def turn(message: ChatMessage) -> Turn:
    return Turn.from_payload(message.stored, message.payload)


def hold(steps: list[tuple[Api, str, int, int, Style]]) -> tuple[Scope, list[Round]]:
    """Each step is one round: its API, question, number of calls, how many earlier rounds it resends, and style."""
    scope = Scope("each-api", str(uuid.uuid4()))
    rounds: list[Round] = []
    for number, (api, question, calls_made, window, style) in enumerate(steps):
        calls = tuple(Call(10 * number + place) for place in range(calls_made))
        history = written(api, rounds[len(rounds) - window :] if window < len(rounds) else rounds, style)
        history += api.question(question, style)
        if calls:
            ask(api, scope, history, api.calls(calls, AS_MADE))
            history += [*api.calls(calls, style), *api.results(calls, style)]
        ask(api, scope, history, api.answer(f"answer {number}", AS_MADE))
        rounds.append(Round(question, calls, f"answer {number}"))
    return scope, rounds


questions = st.sampled_from(["yes", "no"])


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)
@ON_DATABASE
@given(steps=st.lists(st.tuples(questions, st.integers(0, 2), st.integers(0, 6), styles), min_size=1, max_size=5))
def test_each_turn_is_stored_once_however_it_is_written_and_resent(
    api: Api, steps: list[tuple[str, int, int, Style]]
) -> None:
    scope, rounds = hold([(api, *step) for step in steps])
    expected: list[str] = []
    for question, calls, answer in rounds:
        results = [call.result for call in calls]
        told = ["\n".join(results)] if results and isinstance(api, InMessages) else results
        expected += [question, *([""] if calls else []), *told, answer]
    assert left(scope) == (expected, 0)


@ON_DATABASE
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(APIS), questions, st.integers(0, 1), st.integers(0, 6), styles),
        min_size=1,
        max_size=5,
    )
)
def test_each_turn_is_stored_once_whichever_api_goes_on_with_it(steps: list[tuple[Api, str, int, int, Style]]) -> None:
    scope, rounds = hold(steps)
    expected: list[str] = []
    for question, calls, answer in rounds:
        expected += [question, *(text for call in calls for text in ("", call.result)), answer]
    assert left(scope) == (expected, 0)
    parents = list(Message.objects.in_scope(scope).order_by("id").values_list("id", "parent_id"))
    assert [parent for _, parent in parents[1:]] == [pk for pk, _ in parents[:-1]], "one line"
