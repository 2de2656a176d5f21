"""LiteLLM as a library."""

from __future__ import annotations

from typing import Any

import litellm

from tests.clients.behaviour import KEY, MODEL, SCHEMAS, Behaviour, run_tool
from tests.clients.scope import PATIENCE, Scope


class Conversation:
    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._messages: list[Any] = []

    def _complete(self, **more: Any) -> Any:
        return litellm.completion(
            model=f"openai/{MODEL}",
            api_base=self._scope.base_url,
            api_key=KEY,
            messages=self._messages,
            max_retries=0,
            timeout=PATIENCE,
            **more,
        )

    def ask(self, text: str) -> str:
        self._messages.append({"role": "user", "content": text})
        answer = self._complete().choices[0].message
        self._messages.append(answer)
        return str(answer.content)

    def stream(self, text: str) -> str:
        self._messages.append({"role": "user", "content": text})
        said = "".join(chunk.choices[0].delta.content or "" for chunk in self._complete(stream=True))
        self._messages.append({"role": "assistant", "content": said})
        return said

    def leave(self, text: str) -> None:
        self._messages.append({"role": "user", "content": text})
        stream = self._complete(stream=True)
        for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        stream.completion_stream.close()

    def use_tools(self, text: str) -> str:
        self._messages.append({"role": "user", "content": text})
        while True:
            message = self._complete(tools=SCHEMAS).choices[0].message
            self._messages.append(message)
            if not message.tool_calls:
                return str(message.content)
            for call in message.tool_calls:
                result = run_tool(call.function.name, call.function.arguments)
                self._messages.append({"role": "tool", "tool_call_id": call.id, "content": result})


class TestLiteLLM(Behaviour):
    errors = {401: litellm.AuthenticationError, 429: litellm.RateLimitError, 500: litellm.InternalServerError}

    def make(self, scope: Scope) -> Conversation:
        return Conversation(scope)
