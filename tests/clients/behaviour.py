"""What every client library must do through Reservoir. A test class makes its client and inherits the tests."""

from __future__ import annotations

import json
from typing import Any, Protocol

import pytest

from tests.clients.scope import PATIENCE, Scope
from tests.fake_provider.answers import Answer, Gate, completion, error_body, stream_answer, stream_events
from tests.fake_provider.answers import text_answer as says
from tests.fake_provider.provider import FakeProvider

MODEL = "gpt-4"
KEY = "sk-client"
QUESTION = "What is the weather in Oslo, and what time is it there?"
WEATHER, CLOCK = "18 degrees in Oslo", "noon in Oslo"
CALLS = [
    {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}},
    {"id": "call_2", "type": "function", "function": {"name": "clock", "arguments": '{"city": "Oslo"}'}},
]


def weather(city: str) -> str:
    """The weather of a city."""
    return f"18 degrees in {city}"


def clock(city: str) -> str:
    """The time in a city."""
    return f"noon in {city}"


TOOLS = {"weather": weather, "clock": clock}
SCHEMAS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": tool.__doc__,
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
    for name, tool in TOOLS.items()
]


def run_tool(name: str, arguments: str) -> str:
    """What the tool of this name says to arguments in JSON."""
    return TOOLS[name](**json.loads(arguments))


class Client(Protocol):
    """A library with one conversation, whose history it keeps as its users would."""

    def ask(self, text: str) -> str:
        """The answer to one more turn."""

    def stream(self, text: str) -> str:
        """The same, streamed."""

    def leave(self, text: str) -> None:
        """Ask with a stream, and close it after the first text."""

    def use_tools(self, text: str) -> str:
        """The answer after a loop with both tools."""


def calls_both_tools() -> Answer:
    body = json.loads(completion("", message={"role": "assistant", "content": None, "tool_calls": CALLS}))
    body["choices"][0]["finish_reason"] = "tool_calls"
    return Answer(body=json.dumps(body).encode())


def texts(messages: list[dict[str, Any]], role: str) -> list[str]:
    """The texts of a request's messages of this role; parts are joined."""

    def text(content: Any) -> str:
        return content if isinstance(content, str) else "".join(part.get("text", "") for part in content or [])

    return [text(message.get("content")) for message in messages if message["role"] == role]


class Behaviour:
    """The tests. `make` gives a fresh conversation; `errors` are the exceptions for 401, 429 and 500."""

    errors: dict[int, type[Exception]]

    def make(self, scope: Scope) -> Client:
        raise NotImplementedError

    def test_several_turns_are_remembered_and_stored_once(self, scope: Scope, provider: FakeProvider) -> None:
        client = self.make(scope)
        provider.answer(says("A fine name."), says("I will keep that in mind."))
        assert client.ask("My parrot is called Bluebell.") == "A fine name."
        assert client.ask("It eats sunflower seeds.") == "I will keep that in mind."
        assert texts(provider.last.messages, "user")[0].endswith("My parrot is called Bluebell.")
        turns = [
            ("user", "My parrot is called Bluebell."),
            ("assistant", "A fine name."),
            ("user", "It eats sunflower seeds."),
            ("assistant", "I will keep that in mind."),
        ]
        assert scope.turns() == turns

        provider.answer(says("Bluebell."))
        assert self.make(scope).ask("What is my parrot called?") == "Bluebell."
        sent = provider.last.messages
        assert "My parrot is called Bluebell." in texts(sent, "user")  # a turn that this client never sent
        assert sent[-1]["role"] == "user" and texts(sent, "user")[-1].endswith("What is my parrot called?")
        assert scope.turns() == [*turns, ("user", "What is my parrot called?"), ("assistant", "Bluebell.")]
        assert len(provider.chats) == 3

    def test_two_parallel_tools_in_a_loop(self, scope: Scope, provider: FakeProvider) -> None:
        provider.answer(calls_both_tools(), says("18 degrees, and noon."))
        assert self.make(scope).use_tools(QUESTION) == "18 degrees, and noon."
        first, second = provider.chats
        assert {tool["function"]["name"] for tool in first.json["tools"]} == {"weather", "clock"}
        (calling,) = [message for message in second.messages if message.get("tool_calls")]
        assert [call["function"]["name"] for call in calling["tool_calls"]] == ["weather", "clock"]
        assert sorted(texts(second.messages, "tool")) == [WEATHER, CLOCK]
        stored = scope.turns()
        assert [role for role, _ in stored] == ["user", "assistant", "tool", "tool", "assistant"]
        assert stored[0] == ("user", QUESTION) and stored[-1] == ("assistant", "18 degrees, and noon.")
        assert sorted(text for role, text in stored if role == "tool") == [WEATHER, CLOCK]

    def test_a_stream(self, scope: Scope, provider: FakeProvider) -> None:
        client = self.make(scope)
        provider.answer(stream_answer("Parrots are birds.", usage=True), stream_answer("They can fly.", usage=True))
        assert client.stream("What are parrots?") == "Parrots are birds."
        assert client.stream("Can they fly?") == "They can fly."
        assert scope.turns() == [
            ("user", "What are parrots?"),
            ("assistant", "Parrots are birds."),
            ("user", "Can they fly?"),
            ("assistant", "They can fly."),
        ]
        assert len(provider.chats) == 2

    def test_a_client_that_leaves_in_the_middle_of_a_stream(self, scope: Scope, provider: FakeProvider) -> None:
        gate = Gate()
        events = stream_events("Parrots are birds.")
        headers = [("Content-Type", "text/event-stream")]
        provider.answer(Answer(headers=headers, body=[*events[:3], gate, *events[3:]]))
        self.make(scope).leave("What are parrots?")
        assert provider.last.gone.wait(PATIENCE), "the provider still sends"
        gate.open()
        question, answer = scope.wait_for(2)
        assert (question["role"], question["content"]) == ("user", "What are parrots?")
        assert (answer["role"], answer["partial"]) == ("assistant", True)
        assert "Parrots are birds.".startswith(answer["content"]) and answer["content"].startswith("Parrots")
        assert scope.wait_for_end(answer["trace_id"]) == "gone"

        provider.answer(says("Yes."))
        assert self.make(scope).ask("Can they fly?") == "Yes."
        assert len(provider.chats) == 2
        assert len(scope.stored()) == 4

    @pytest.mark.parametrize("status", [401, 429, 500])
    def test_an_error_is_the_librarys_own(self, scope: Scope, provider: FakeProvider, status: int) -> None:
        provider.answer(Answer(status, body=error_body(f"No luck: {status}.")))
        with pytest.raises(self.errors[status]) as caught:
            self.make(scope).ask("What are parrots?")
        assert f"No luck: {status}." in str(caught.value)
        assert getattr(caught.value, "status_code", status) == status
        assert len(provider.chats) == 1, "the library tried again"
        assert scope.turns() == [("user", "What are parrots?")]

        provider.answer(says("Birds."))
        assert self.make(scope).ask("What are parrots?") == "Birds."
        assert scope.turns().count(("assistant", "Birds.")) == 1
