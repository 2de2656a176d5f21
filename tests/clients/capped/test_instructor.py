"""Instructor: answers as Pydantic models, from tool calls, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import instructor
import openai
from pydantic import BaseModel, create_model

from tests.clients.behaviour import KEY, MODEL, Behaviour, run_tool
from tests.clients.scope import PATIENCE, Scope
from tests.fake_provider.answers import Answer, chunk, event
from tests.fake_provider.provider import FakeProvider

Weather = create_model("weather", city=(str, ...))
Clock = create_model("clock", city=(str, ...))


class Parrot(BaseModel):
    name: str
    food: str


def wrapped(scope: Scope, mode: instructor.Mode = instructor.Mode.TOOLS) -> Any:
    client = openai.OpenAI(base_url=scope.base_url, api_key=KEY, max_retries=0, timeout=PATIENCE)
    return instructor.from_openai(client, mode=mode)


class Conversation:
    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._client = wrapped(scope)
        self._messages: list[Any] = []

    def _create(self, **more: Any) -> Any:
        asking = {"model": MODEL, "messages": self._messages, "response_model": None, "max_retries": 0}
        return self._client.chat.completions.create(**asking | more)

    def ask(self, text: str) -> str:
        self._messages.append({"role": "user", "content": text})
        said = str(self._create().choices[0].message.content)
        self._messages.append({"role": "assistant", "content": said})
        return said

    def stream(self, text: str) -> str:
        self._messages.append({"role": "user", "content": text})
        said = "".join(chunk.choices[0].delta.content or "" for chunk in self._create(stream=True) if chunk.choices)
        self._messages.append({"role": "assistant", "content": said})
        return said

    def leave(self, text: str) -> None:
        self._messages.append({"role": "user", "content": text})
        with self._create(stream=True) as stream:
            for piece in stream:
                if piece.choices[0].delta.content:
                    return

    def use_tools(self, text: str) -> str:
        answers: list[Any] = []
        parallel = wrapped(self._scope, instructor.Mode.PARALLEL_TOOLS)
        parallel.on("completion:response", answers.append)
        self._messages.append({"role": "user", "content": text})
        found = parallel.chat.completions.create(
            model=MODEL,
            messages=self._messages,
            response_model=Iterable[Weather | Clock],  # type: ignore[valid-type]
            max_retries=0,
        )
        assert [type(call) for call in found] == [Weather, Clock]
        message = answers[0].choices[0].message
        self._messages.append({"content": None, **message.model_dump(exclude_none=True)})  # Instructor reads "content"
        for call in message.tool_calls:
            result = run_tool(call.function.name, call.function.arguments)
            self._messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
        return str(self._create().choices[0].message.content)


class TestInstructor(Behaviour):
    errors = {401: openai.AuthenticationError, 429: openai.RateLimitError, 500: openai.InternalServerError}

    def make(self, scope: Scope) -> Conversation:
        return Conversation(scope)

    def test_a_model_filled_by_a_stream(self, scope: Scope, provider: FakeProvider) -> None:
        arguments = json.dumps({"name": "Bluebell", "food": "seeds"})
        function = {"name": "Parrot", "arguments": ""}
        events = [chunk({"role": "assistant", "tool_calls": [{"index": 0, "id": "call_1", "function": function}]})]
        for at in range(0, len(arguments), 5):
            piece = {"index": 0, "function": {"arguments": arguments[at : at + 5]}}
            events.append(chunk({"tool_calls": [piece]}))
        events += [chunk({}, finish="tool_calls"), event("[DONE]")]
        provider.answer(Answer(headers=[("Content-Type", "text/event-stream")], body=events))
        asked: list[Any] = [{"role": "user", "content": "My parrot is Bluebell and eats seeds."}]
        parts = list(
            wrapped(scope).chat.completions.create_partial(
                model=MODEL, messages=asked, response_model=Parrot, max_retries=0
            )
        )
        assert (parts[-1].name, parts[-1].food) == ("Bluebell", "seeds")
        assert len(parts) > 2
        assert [role for role, _ in scope.turns()] == ["user", "assistant"]
        assert len(provider.chats) == 1
