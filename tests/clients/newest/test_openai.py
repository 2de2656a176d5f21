"""OpenAI's own library."""

from __future__ import annotations

from typing import Any

import openai

from tests.clients.behaviour import KEY, MODEL, SCHEMAS, Behaviour, run_tool
from tests.clients.scope import PATIENCE, Scope


class Conversation:
    def __init__(self, scope: Scope) -> None:
        self._client = openai.OpenAI(base_url=scope.base_url, api_key=KEY, max_retries=0, timeout=PATIENCE)
        self._messages: list[Any] = []

    def ask(self, text: str) -> str:
        self._messages.append({"role": "user", "content": text})
        answer = self._client.chat.completions.create(model=MODEL, messages=self._messages).choices[0].message
        self._messages.append(answer)
        return answer.content or ""

    def stream(self, text: str) -> str:
        self._messages.append({"role": "user", "content": text})
        with self._client.chat.completions.create(model=MODEL, messages=self._messages, stream=True) as stream:
            said = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
        self._messages.append({"role": "assistant", "content": said})
        return said

    def leave(self, text: str) -> None:
        messages: list[Any] = [{"role": "user", "content": text}]
        with self._client.chat.completions.create(model=MODEL, messages=messages, stream=True) as stream:
            for chunk in stream:
                if chunk.choices[0].delta.content:
                    return

    def use_tools(self, text: str) -> str:
        self._messages.append({"role": "user", "content": text})
        tools: Any = SCHEMAS
        while True:
            answer = self._client.chat.completions.create(model=MODEL, messages=self._messages, tools=tools)
            message = answer.choices[0].message
            self._messages.append(message)
            if not message.tool_calls:
                return message.content or ""
            for call in message.tool_calls:
                assert call.type == "function"
                result = run_tool(call.function.name, call.function.arguments)
                self._messages.append({"role": "tool", "tool_call_id": call.id, "content": result})


class TestOpenAI(Behaviour):
    errors = {401: openai.AuthenticationError, 429: openai.RateLimitError, 500: openai.InternalServerError}

    def make(self, scope: Scope) -> Conversation:
        return Conversation(scope)
