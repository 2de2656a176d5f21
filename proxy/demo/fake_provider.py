"""A provider without a model: it speaks enough of the OpenAI API to be asked, and quotes what it was given."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from aiohttp import web

from proxy.demo import quoting
from proxy.errors import openai_error
from proxy.prompt.chat import Json

MODELS = ("gpt-4", "gpt-4o", "gpt-4o-mini")
BODY_LIMIT = 2**26  # bytes
CHARACTERS_PER_TOKEN = 4  # an estimate, for `usage`


@asynccontextmanager
async def serving(
    port: int = 0, *, delay: float = 0.0, on_chat: Callable[[Json], object] = lambda body: None
) -> AsyncIterator[str]:
    """Listen on this machine until the context ends; yields the base URL.

    Port 0 takes a free one. `delay` is in seconds, before each word of a stream. `on_chat` is called with the parsed
    body of each chat request. Raises OSError when the port is taken.
    """
    provider = _Provider(delay, on_chat)
    application = web.Application(client_max_size=BODY_LIMIT)
    application.router.add_post("/v1/chat/completions", provider.chat)
    application.router.add_get("/v1/models", provider.models)
    application.router.add_get("/v1/models/{model:.+}", provider.model)
    application.router.add_route("*", "/{path:.*}", provider.nothing)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


@dataclass(frozen=True, slots=True)
class _Provider:
    """The routes."""

    delay: float
    on_chat: Callable[[Json], object]

    async def chat(self, request: web.Request) -> web.StreamResponse:
        try:
            body = json.loads(await request.read())
            completion = _Completion(str(body.get("model", "")), quoting.answer(body["messages"]), _read(body))
        except (ValueError, LookupError, TypeError, AttributeError):
            return _refusal(400, "The body must be a JSON object with a list of messages.")
        self.on_chat(body)
        if not body.get("stream"):
            return web.json_response(completion.whole())
        usage = bool((body.get("stream_options") or {}).get("include_usage"))
        return await self._stream(request, completion, usage=usage)

    async def _stream(self, request: web.Request, completion: _Completion, *, usage: bool) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        with suppress(ConnectionError):  # the client has left
            await response.prepare(request)
            for chunk in completion.chunks(usage=usage):
                await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
                await asyncio.sleep(self.delay)
            await response.write(b"data: [DONE]\n\n")
        return response

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [_model(name) for name in MODELS]})

    async def model(self, request: web.Request) -> web.Response:
        return web.json_response(_model(request.match_info["model"]))

    async def nothing(self, request: web.Request) -> web.Response:
        return _refusal(404, "This provider has chat/completions and models.")


@dataclass(frozen=True, slots=True)
class _Completion:
    model: str
    text: str
    read: int  # characters of the request's messages

    def whole(self) -> Json:
        message = {"role": "assistant", "content": self.text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return self._head("chat.completion") | {"choices": [choice], "usage": self._usage()}

    def chunks(self, *, usage: bool) -> Iterator[Json]:
        """One chunk a word."""
        head = self._head("chat.completion.chunk")
        words = self.text.split(" ")
        contents = [word if at == 0 else f" {word}" for at, word in enumerate(words)]
        for delta in ({"role": "assistant", "content": ""}, *({"content": content} for content in contents)):
            yield head | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        yield head | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        if usage:
            yield head | {"choices": [], "usage": self._usage()}

    def _head(self, kind: str) -> Json:
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": self.model,
        }

    def _usage(self) -> Json:
        read, written = (size // CHARACTERS_PER_TOKEN + 1 for size in (self.read, len(self.text)))
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _read(body: Json) -> int:
    return sum(len(str(message.get("content", ""))) for message in body["messages"])


def _model(name: str) -> Json:
    return {"id": name, "object": "model", "created": 0, "owned_by": "reservoir"}


def _refusal(status: int, message: str) -> web.Response:
    body = openai_error(message, type="invalid_request_error")
    return web.Response(status=status, body=body, content_type="application/json")
