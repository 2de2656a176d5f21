"""Haystack: its generator for OpenAI's API, and its Agent."""

from __future__ import annotations

import contextlib
from typing import Any

import openai
from haystack.components.agents import Agent
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.tools import Tool
from haystack.utils import Secret

from tests.clients.behaviour import KEY, MODEL, SCHEMAS, TOOLS, Behaviour
from tests.clients.scope import PATIENCE, Scope


class Left(Exception):
    """Ends a stream from its callback, as Haystack offers no other way."""


class Conversation:
    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._messages: list[Any] = []

    def _generator(self, callback: Any = None) -> Any:
        return OpenAIChatGenerator(
            api_key=Secret.from_token(KEY),
            model=MODEL,
            api_base_url=self._scope.base_url,
            max_retries=0,
            timeout=PATIENCE,
            streaming_callback=callback,
        )

    def _ask(self, text: str, callback: Any = None) -> str:
        self._messages.append(ChatMessage.from_user(text))
        (answer,) = self._generator(callback).run(self._messages)["replies"]
        self._messages.append(answer)
        return str(answer.text)

    def ask(self, text: str) -> str:
        return self._ask(text)

    def stream(self, text: str) -> str:
        pieces: list[str] = []
        answer = self._ask(text, lambda chunk: pieces.append(chunk.content))
        assert "".join(pieces) == answer
        return answer

    def leave(self, text: str) -> None:
        def leave(chunk: Any) -> None:
            if chunk.content:
                raise Left

        generator = self._generator(leave)
        with contextlib.suppress(Left):
            generator.run([ChatMessage.from_user(text)])
        generator.client.close()  # Haystack does not close the stream itself

    def use_tools(self, text: str) -> str:
        tools: Any = [
            Tool(
                name=schema["function"]["name"],
                description=schema["function"]["description"],
                parameters=schema["function"]["parameters"],
                function=TOOLS[schema["function"]["name"]],
            )
            for schema in SCHEMAS
        ]
        said = Agent(chat_generator=self._generator(), tools=tools).run(messages=[ChatMessage.from_user(text)])
        return str(said["last_message"].text)


class TestHaystack(Behaviour):
    errors = {401: openai.AuthenticationError, 429: openai.RateLimitError, 500: openai.InternalServerError}

    def make(self, scope: Scope) -> Conversation:
        return Conversation(scope)
