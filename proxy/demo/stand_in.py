"""A provider that is no model: it speaks enough of the OpenAI API to be asked, and says what it was given."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from proxy.prompt.chat import Json
from proxy.providers import tokens

LIMIT = 2**20  # bytes of a request


class StandIn:
    """`base_url` is where it listens; `received` the bodies of the requests it got, parsed."""

    def __init__(self) -> None:
        self.base_url = ""
        self.received: list[Json] = []

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
            body = await reader.readexactly(min(int(fields.get(b"content-length", b"0")), LIMIT))
            asked = json.loads(body)
            self.received.append(asked)
            answer = json.dumps(_completion(asked)).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n")
            writer.write(b"Content-Length: %d\r\n\r\n" % len(answer) + answer)
            await writer.drain()
        finally:
            writer.close()


@asynccontextmanager
async def stand_in() -> AsyncIterator[StandIn]:
    """It listens on a free port of this machine until the context ends."""
    provider = StandIn()
    async with await asyncio.start_server(provider._serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        provider.base_url = f"http://127.0.0.1:{port}/v1"
        yield provider


def _completion(asked: Mapping[str, Any]) -> Json:
    messages = asked["messages"]
    said = _in_words(messages)
    count = tokens.counter(str(asked["model"])).count
    read, written = sum(count(str(message["content"])) for message in messages), count(said)
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": asked["model"],
        "choices": [{"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
    }


def _in_words(messages: list[Json]) -> str:
    notes = sum(
        line.startswith("- ")
        for message in messages
        if message["role"] == "system"
        for line in str(message["content"]).splitlines()
    )
    noted = "one note" if notes == 1 else f"{notes} notes"
    return f"I am no model. I was given {len(messages)} messages, with {noted} of what was said before to answer from."
