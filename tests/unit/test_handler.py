"""The API's ASGI handler: bodies, clients that leave, and unchanged answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from django.http import HttpResponse, HttpResponseNotAllowed

from proxy.handler import IN_MEMORY, ApiHandler, ApiRequest, RelayedResponse, WholeResponse
from tests.unit.asgi import Exchange, http_scope

ENOUGH = 300.0  # seconds; an ample bound for immediate events

View = Callable[[ApiRequest], Awaitable[Any]]


async def handle(view: View, exchange: Exchange) -> Exchange:
    handler = ApiHandler()
    setattr(handler, "get_response_async", view)  # noqa: B010 - what stands for all routes
    async with asyncio.timeout(ENOUGH):
        await handler(http_scope(method="POST"), exchange.receive, exchange.send)
    return exchange


async def echo(request: ApiRequest) -> HttpResponse:
    return WholeResponse(200, [], request.body)


# --- requests ---


@pytest.mark.parametrize("pieces", [(b"",), (b"whole",), (b"in ", b"", b"pieces"), (bytes(IN_MEMORY), b"more")])
async def test_a_body_in_any_pieces_arrives_whole(pieces: tuple[bytes, ...]) -> None:
    assert (await handle(echo, Exchange(*pieces))).body == b"".join(pieces)


async def test_a_large_body_is_a_file_that_the_view_can_reread() -> None:
    async def read_again(request: ApiRequest) -> HttpResponse:
        assert getattr(request.file, "_rolled")  # noqa: B009 - not in typeshed
        first = request.file.read()
        request.file.seek(0)
        assert request.file.read() == first
        return WholeResponse(200, [], str(len(first)).encode())

    assert (await handle(read_again, Exchange(bytes(IN_MEMORY), b"x"))).body == str(IN_MEMORY + 1).encode()


async def test_a_client_that_leaves_during_its_body_gets_no_answer() -> None:
    async def view(request: ApiRequest) -> HttpResponse:
        raise AssertionError("half a request was answered")

    assert (await handle(view, Exchange(b"half of", breaks_off=True))).sent == []


async def test_a_client_that_leaves_cancels_the_work_and_its_resources_are_closed() -> None:
    exchange, seen = Exchange(), []

    async def close() -> None:
        await asyncio.sleep(0.01)  # the handler must wait for this
        seen.append("closed")

    async def view(request: ApiRequest) -> HttpResponse:
        request.closing.push_async_callback(close)
        exchange.leaves.set()
        try:
            await asyncio.sleep(ENOUGH * 2)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        raise AssertionError("the work went on without its client")

    await handle(view, exchange)
    assert seen == ["cancelled", "closed"]
    assert exchange.sent == []


async def test_cancelling_a_request_cancels_the_work_too() -> None:
    begun, closed = asyncio.Event(), asyncio.Event()

    async def view(request: ApiRequest) -> HttpResponse:
        request.closing.callback(closed.set)
        begun.set()
        await asyncio.sleep(ENOUGH * 2)
        raise AssertionError("the work went on")

    handling = asyncio.create_task(handle(view, Exchange()))
    await asyncio.wait_for(begun.wait(), ENOUGH)
    handling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handling
    assert closed.is_set()


async def test_resources_are_closed_after_the_answer() -> None:
    exchange = Exchange()
    sent_by_then = []

    async def view(request: ApiRequest) -> HttpResponse:
        request.closing.callback(lambda: sent_by_then.append(len(exchange.sent)))
        return WholeResponse(200, [], b"answer")

    await handle(view, exchange)
    assert sent_by_then == [2]


async def test_an_error_while_sending_is_raised_and_closes_resources() -> None:
    closed = asyncio.Event()

    async def view(request: ApiRequest) -> HttpResponse:
        request.closing.callback(closed.set)
        return WholeResponse(200, [], b"answer")

    class Deaf(Exchange):
        async def send(self, event: Any) -> None:
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await handle(view, Deaf())
    assert closed.is_set()


async def test_no_task_waits_for_a_client_that_has_its_answer() -> None:
    await handle(echo, Exchange(b"hello"))
    await asyncio.sleep(0)  # lets the cancelled task end
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_requests_reach_their_route_without_middleware() -> None:
    handler: Any = ApiHandler()
    assert handler._view_middleware == handler._template_response_middleware == handler._exception_middleware == []


# --- responses ---


async def test_a_complete_answer_keeps_its_headers_and_gains_its_length() -> None:
    headers = [(b"X-Twice", b"1"), (b"x-twice", b"2")]
    exchange = await handle(lambda _: _whole(headers), Exchange())
    assert exchange.status == 418
    assert exchange.headers == [*headers, (b"content-length", b"6")]
    assert exchange.chunks == [b"answer"]


async def test_a_stated_length_is_kept() -> None:
    headers = [(b"Content-Length", b"6")]
    assert (await handle(lambda _: _whole(headers), Exchange())).headers == headers


async def _whole(headers: list[tuple[bytes, bytes]]) -> HttpResponse:
    return WholeResponse(418, headers, b"answer")


async def test_ordinary_django_responses_are_sent_too() -> None:
    async def view(request: ApiRequest) -> HttpResponse:
        return HttpResponse("grüße", status=201, headers={"X-Own": "ü"})

    exchange = await handle(view, Exchange())
    assert (exchange.status, exchange.body) == (201, "grüße".encode())
    assert {(b"x-own", b"\xfc"), (b"content-length", b"7")} < set(exchange.headers)


async def test_a_method_that_a_route_lacks_is_refused_in_openais_shape() -> None:
    async def view(request: ApiRequest) -> HttpResponse:
        return HttpResponseNotAllowed(["GET", "DELETE"])

    exchange = await handle(view, Exchange())
    assert exchange.status == 405
    assert (b"allow", b"GET, DELETE") in exchange.headers
    assert json.loads(exchange.body)["error"]["code"] == "method_not_allowed"


class Stream:
    """A body in chunks that says whether it was closed."""

    def __init__(self, *chunks: bytes, hangs: asyncio.Event | None = None) -> None:
        self.closed = False
        self._chunks = chunks
        self._hangs = hangs
        self.body = self._generate()  # kept here, so that no garbage collection closes it

    async def _generate(self) -> AsyncIterator[bytes]:
        try:
            for chunk in self._chunks:
                yield chunk
            if self._hangs:
                self._hangs.set()
                await asyncio.sleep(ENOUGH * 2)
        finally:
            self.closed = True


async def test_a_relayed_stream_is_sent_chunk_by_chunk_with_unchanged_headers() -> None:
    headers, stream = [(b"X-Twice", b"1"), (b"X-Twice", b"2")], Stream(b"one", b"", b"two")

    async def view(request: ApiRequest) -> RelayedResponse:
        return RelayedResponse(206, headers, stream.body)

    exchange = await handle(view, Exchange())
    assert (exchange.status, exchange.headers, exchange.chunks) == (206, headers, [b"one", b"", b"two", b""])
    assert [event.get("more_body", False) for event in exchange.sent[1:]] == [True, True, True, False]
    assert stream.closed


async def test_a_relayed_stream_is_closed_when_its_client_leaves() -> None:
    exchange = Exchange()
    stream = Stream(b"one", hangs=exchange.leaves)

    async def view(request: ApiRequest) -> RelayedResponse:
        return RelayedResponse(200, [], stream.body)

    await handle(view, exchange)
    assert exchange.chunks == [b"one"]
    assert stream.closed


async def test_a_relayed_stream_that_breaks_off_gets_no_regular_end() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"one"
        raise ConnectionResetError

    async def view(request: ApiRequest) -> RelayedResponse:
        return RelayedResponse(200, [], broken())

    exchange = Exchange()
    with pytest.raises(ConnectionResetError):
        await handle(view, exchange)
    assert exchange.chunks == [b"one"]
    assert exchange.sent[-1]["more_body"]
