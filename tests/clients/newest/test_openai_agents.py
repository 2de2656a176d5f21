"""OpenAI's Agents SDK, through Responses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import openai
import pytest
from agents import Agent, OpenAIResponsesModel, RunConfig, Runner, function_tool

from tests.clients.behaviour import CLOCK, KEY, MODEL, QUESTION, WEATHER, clock, weather
from tests.clients.scope import PATIENCE, Scope
from tests.fake_provider import responses
from tests.fake_provider.answers import Answer, error_body
from tests.fake_provider.provider import FakeProvider

CITY = json.dumps({"city": "Oslo"})
CALLS = [responses.thought("x"), responses.call("weather", CITY, "call_1"), responses.call("clock", CITY, "call_2")]


def says(text: str) -> Answer:
    return responses.whole([responses.message(text)])


class Conversation:
    """An agent with two tools; its history is kept as its users would."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._history: list[Any] = []

    def ask(self, text: str, *, stream: bool = False) -> str:
        return asyncio.run(self._ask(text, stream=stream))

    async def _ask(self, text: str, *, stream: bool) -> str:
        client = openai.AsyncOpenAI(base_url=self._scope.base_url, api_key=KEY, max_retries=0, timeout=PATIENCE)
        async with client:
            agent = Agent(
                name="Guide",
                instructions="Be brief.",
                model=OpenAIResponsesModel(MODEL, openai_client=client),
                tools=[function_tool(weather), function_tool(clock)],
            )
            given = [*self._history, {"role": "user", "content": text}]
            config = RunConfig(tracing_disabled=True)
            result: Any
            if stream:
                result = Runner.run_streamed(agent, given, run_config=config)
                async for _ in result.stream_events():
                    pass
            else:
                result = await Runner.run(agent, given, run_config=config)
        self._history = result.to_input_list()
        return str(result.final_output)


def told(requests: Sequence[Any]) -> list[str]:
    return [json.dumps(request.json["input"]) for request in requests]


@pytest.mark.parametrize("stream", [False, True])
def test_two_turns_with_two_parallel_tools(scope: Scope, provider: FakeProvider, *, stream: bool) -> None:
    agent = Conversation(scope)
    answers = [[responses.message("A fine name.")], CALLS, [responses.message("18 degrees, and noon.")]]
    provider.answer(*(responses.stream(items) if stream else responses.whole(items) for items in answers))
    assert agent.ask("My parrot is called Bluebell.", stream=stream) == "A fine name."
    assert agent.ask(QUESTION, stream=stream) == "18 degrees, and noon."

    _, second, third = provider.requests
    assert {tool["name"] for tool in second.json["tools"]} == {"weather", "clock"}
    assert third.json["input"][: len(second.json["input"])] == second.json["input"]
    outputs = [item["output"] for item in third.json["input"] if item.get("type") == "function_call_output"]
    assert outputs == [WEATHER, CLOCK]
    assert scope.turns() == [
        ("user", "My parrot is called Bluebell."),
        ("assistant", "A fine name."),
        ("user", QUESTION),
        ("assistant", ""),
        ("tool", WEATHER),
        ("tool", CLOCK),
        ("assistant", "18 degrees, and noon."),
    ]

    provider.answer(says("Bluebell."))
    assert Conversation(scope).ask("What is my parrot called?") == "Bluebell."
    assert "My parrot is called Bluebell." in told(provider.requests)[-1]  # a turn that this agent never sent


@pytest.mark.parametrize(
    ("status", "error"),
    [(401, openai.AuthenticationError), (429, openai.RateLimitError), (500, openai.InternalServerError)],
)
def test_an_error_is_the_librarys_own(
    scope: Scope, provider: FakeProvider, status: int, error: type[openai.APIStatusError]
) -> None:
    provider.answer(Answer(status, body=error_body(f"No luck: {status}.")))
    with pytest.raises(error, match="No luck"):
        Conversation(scope).ask("What are parrots?")
    assert len(provider.requests) == 1
