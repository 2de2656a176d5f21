"""Pydantic AI."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
from pydantic_ai import Agent
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.clients.behaviour import KEY, MODEL, TOOLS, Behaviour
from tests.clients.scope import PATIENCE, Scope


class Conversation:
    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._history: list[Any] = []

    def _agent(self, *tools: Any) -> Any:
        client = openai.AsyncOpenAI(base_url=self._scope.base_url, api_key=KEY, max_retries=0, timeout=PATIENCE)
        return Agent(OpenAIChatModel(MODEL, provider=OpenAIProvider(openai_client=client)), tools=tools)

    def ask(self, text: str) -> str:
        return self._run(self._agent(), text)

    def use_tools(self, text: str) -> str:
        return self._run(self._agent(*TOOLS.values()), text)

    def _run(self, agent: Any, text: str) -> str:
        async def run() -> Any:
            return await agent.run(text, message_history=self._history)

        said = asyncio.run(run())
        self._history = said.all_messages()
        return str(said.output)

    def stream(self, text: str) -> str:
        async def run() -> str:
            async with self._agent().run_stream(text, message_history=self._history) as answer:
                pieces = [piece async for piece in answer.stream_text(delta=True, debounce_by=None)]
                self._history = answer.all_messages()
            return "".join(pieces)

        return asyncio.run(run())

    def leave(self, text: str) -> None:
        async def run() -> None:
            async with self._agent().run_stream(text) as answer:
                async for _ in answer.stream_text(delta=True, debounce_by=None):
                    await asyncio.sleep(0)
                    asyncio.current_task().cancel()  # type: ignore[union-attr]

        try:
            asyncio.run(run())
        except asyncio.CancelledError:
            return


class TestPydanticAI(Behaviour):
    errors = dict.fromkeys((401, 429, 500), ModelHTTPError)

    def make(self, scope: Scope) -> Conversation:
        return Conversation(scope)
