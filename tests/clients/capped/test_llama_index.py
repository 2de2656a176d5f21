"""LlamaIndex: OpenAILike, with its chat memory and its FunctionAgent."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import openai
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

from tests.clients.behaviour import KEY, MODEL, TOOLS, Behaviour
from tests.clients.scope import PATIENCE, Scope


class Conversation:
    def __init__(self, scope: Scope) -> None:
        self._connections = httpx.Client(timeout=PATIENCE, trust_env=False)
        self._model = OpenAILike(
            model=MODEL,
            api_base=scope.base_url,
            api_key=KEY,
            is_chat_model=True,
            is_function_calling_model=True,
            max_retries=0,
            timeout=PATIENCE,
            http_client=self._connections,
        )
        self._messages: list[Any] = []

    def ask(self, text: str) -> str:
        self._messages.append(ChatMessage(role="user", content=text))
        answer = self._model.chat(self._messages).message
        self._messages.append(answer)
        return str(answer.content)

    def stream(self, text: str) -> str:
        self._messages.append(ChatMessage(role="user", content=text))
        said = "".join(piece.delta or "" for piece in self._model.stream_chat(self._messages))
        self._messages.append(ChatMessage(role="assistant", content=said))
        return said

    def leave(self, text: str) -> None:
        stream = self._model.stream_chat([ChatMessage(role="user", content=text)])
        for piece in stream:
            if piece.delta:
                break
        self._connections.close()  # closing the generator leaves the stream open

    def use_tools(self, text: str) -> str:
        tools = [FunctionTool.from_defaults(tool) for tool in TOOLS.values()]
        agent = FunctionAgent(tools=tools, llm=self._model, streaming=False)

        async def run() -> str:
            return str(await agent.run(text))

        return asyncio.run(run())


class TestLlamaIndex(Behaviour):
    errors = {401: openai.AuthenticationError, 429: openai.RateLimitError, 500: openai.InternalServerError}

    def make(self, scope: Scope) -> Conversation:
        return Conversation(scope)
