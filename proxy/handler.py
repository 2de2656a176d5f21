"""Django's ASGI handler, reduced to what a proxy needs.

Django wraps each request in a thread for sync code, in signals that manage that thread's database connection, and in
middleware. The API runs no sync code, and these wrappings cost more than the rest of a request.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, aclosing
from typing import IO, Any

from django.core.handlers.asgi import ASGIHandler, ASGIRequest
from django.core.handlers.exception import convert_exception_to_response
from django.http import HttpResponse, HttpResponseNotAllowed, StreamingHttpResponse

from proxy.errors import MethodNotAllowed
from proxy.upstream import Headers

Event = Mapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

IN_MEMORY = 2**20  # bytes; larger bodies go to a temporary file


class ReadableRequest(ASGIRequest):
    """A request that exists whatever its Content-Type says: Django raises an error for an unknown encoding in it."""

    def _set_content_type_params(self, meta: Mapping[str, Any]) -> None:
        try:
            super()._set_content_type_params(meta)  # type: ignore[misc]
        except (LookupError, ValueError):
            self.content_type, self.content_params = "", {}


class SiteHandler(ASGIHandler):
    """Django's handler, for the admin."""

    request_class = ReadableRequest


class ApiRequest(ReadableRequest):
    """A request whose resources (`closing`) are closed at its end, also when the client leaves."""

    closing: AsyncExitStack
    file: IO[bytes]
    limits: Callable[[], Headers]  # what its answer tells of the caller's limits, see authorization.py

    def __init__(self, scope: dict[str, Any], body_file: IO[bytes]) -> None:
        super().__init__(scope, body_file)
        self.file = body_file
        self.limits = list


class RelayedResponse(StreamingHttpResponse):
    """A stream of bytes with raw headers: repeated headers stay apart, none is added."""

    _has_been_logged = True  # a provider's error is not ours: the access log has it

    def __init__(self, status: int, headers: Headers, chunks: AsyncIterator[bytes]) -> None:
        super().__init__(status=status)
        self.raw_headers = headers
        self.chunks = chunks


class ApiHandler(ASGIHandler):
    request_class = ApiRequest

    def load_middleware(self, is_async: bool = False) -> None:
        """No middleware: a request goes straight to its route."""
        self._view_middleware: list[Any] = []
        self._template_response_middleware: list[Any] = []
        self._exception_middleware: list[Any] = []
        self._middleware_chain = convert_exception_to_response(self._get_response_async)  # type: ignore[attr-defined]

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY) as body:
            if not await _read(receive, body):
                return
            answering = asyncio.ensure_future(self._answer(scope, body, send))
            leaving = asyncio.ensure_future(receive())  # the only event left is the client's disconnect
            try:
                await asyncio.wait([answering, leaving], return_when=asyncio.FIRST_COMPLETED)
            finally:
                leaving.cancel()
                if not answering.done():
                    answering.cancel()
                await asyncio.wait([answering])
            if not answering.cancelled():
                answering.result()

    async def _answer(self, scope: dict[str, Any], body: IO[bytes], send: Send) -> None:
        async with AsyncExitStack() as closing:
            request = self.request_class(scope, body)
            request.closing = closing
            response: Any = await self.get_response_async(request)
            if isinstance(response, HttpResponseNotAllowed):
                response = _not_allowed(response)
            await _send(response, request.limits(), send)


def _not_allowed(response: HttpResponseNotAllowed) -> HttpResponse:
    """Django's refusal in OpenAI's shape, like all others."""
    error = MethodNotAllowed(f"Method not allowed: this path takes {response['Allow']}.")
    return WholeResponse(error.status, [*error.headers, (b"allow", response["Allow"].encode())], error.body())


async def _read(receive: Receive, body: IO[bytes]) -> bool:
    """Receive the whole body; returns False when the client leaves before its end."""
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            return False
        body.write(event.get("body", b""))
        if not event.get("more_body"):
            body.seek(0)
            return True


async def _send(response: Any, limits: Headers, send: Send) -> None:
    """Send a response, a stream's chunks as they arrive. Our limits stand in place of a provider's of the same name."""
    headers = getattr(response, "raw_headers", None)
    if headers is None:
        headers = [(k.lower().encode(), v.encode("latin-1")) for k, v in response.items()]
    if limits:
        ours = {name for name, _ in limits}
        headers = [*(header for header in headers if header[0].lower() not in ours), *limits]
    if not response.streaming and not any(name.lower() == b"content-length" for name, _ in headers):
        headers = [*headers, (b"content-length", str(len(response.content)).encode())]
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    if isinstance(response, RelayedResponse):
        async with aclosing(response.chunks) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    else:
        await send({"type": "http.response.body", "body": response.content})


class WholeResponse(HttpResponse):
    """A complete body with raw headers."""

    _has_been_logged = True

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        super().__init__(body, status=status)
        self.raw_headers = headers
