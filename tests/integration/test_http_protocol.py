"""Clients that stall, on real sockets: the deadlines are set to almost nothing here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from reservoir_site import http_protocol
from reservoir_site.http_protocol import DeadlineProtocol

PATIENCE = 300


async def application(scope: Any, receive: Any, send: Any) -> None:
    while (event := await receive()).get("more_body"):
        pass
    if event["type"] == "http.request":
        size = 50_000_000 if scope["path"] == "/large" else 2
        length = (b"content-length", str(size).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": b"a" * size})


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    monkeypatch.setattr(http_protocol, "TICK_SECONDS", 0.01)
    for name in ("FIRST_BYTE_SECONDS", "HEADER_SECONDS", "BODY_SECONDS", "WRITE_SECONDS"):
        monkeypatch.setattr(http_protocol, name, 0.1)
    config = uvicorn.Config(application, http=DeadlineProtocol, lifespan="off", log_config=None)
    state = uvicorn.server.ServerState()
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: DeadlineProtocol(config, state, {}), "127.0.0.1", 0)
    yield listening.sockets[0].getsockname()[1]
    listening.close()


async def answer_to(port: int, sent: bytes) -> bytes:
    """What the server sends until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    received = b""
    try:
        async with asyncio.timeout(PATIENCE):
            received = await reader.read()
    except ConnectionError:
        pass
    finally:
        writer.close()
    return received


@pytest.mark.parametrize(
    "sent", [b"", b"G", b"\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n", b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\na"]
)
async def test_a_client_that_stalls_loses_its_connection(port: int, sent: bytes) -> None:
    assert await answer_to(port, sent) == b""


async def test_a_client_that_does_not_read_loses_its_connection(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1000)
    writer.write(b"GET /large HTTP/1.1\r\n\r\n")
    await asyncio.sleep(1)
    try:
        received = await reader.read(-1)
    except ConnectionError:
        received = b""
    assert len(received) < 50_000_000
    writer.close()


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\nA: " + b"b" * 70_000, b"GET /" + b"b" * 70_000])
async def test_a_header_without_end_is_refused(port: int, sent: bytes) -> None:
    head, _, body = (await answer_to(port, sent)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 ")
    assert json.loads(body)["error"]["code"] == "headers_too_large"


async def test_a_whole_request_is_answered(port: int) -> None:
    sent = b"POST / HTTP/1.1\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"
    assert (await answer_to(port, sent)).endswith(b"\r\n\r\naa")
