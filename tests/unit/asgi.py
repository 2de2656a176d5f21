"""A client and a server of ASGI, in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

Headers = list[tuple[bytes, bytes]]


def http_scope(
    path: str = "/v1/models",
    headers: Mapping[str, str] | None = None,
    *,
    method: str = "GET",
    raw_path: bytes | None = None,
    query: bytes = b"",
) -> dict[str, Any]:
    """The scope of a request to localhost; `headers` may name another host, or "" for none."""
    named = {"host": "localhost", **(headers or {})}
    return {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode() if raw_path is None else raw_path,
        "query_string": query,
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in named.items() if value],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
    }


class Exchange:
    """One request as its client sees it: sends a body, stays or leaves, and keeps what is sent to it."""

    def __init__(self, *body: bytes, breaks_off: bool = False) -> None:
        """`body` comes in these pieces. With `breaks_off` the client leaves instead of ending it."""
        self.sent: list[dict[str, Any]] = []
        self.leaves = asyncio.Event()
        pieces = body or (b"",)
        self._events: list[dict[str, Any]] = [
            {"type": "http.request", "body": piece, "more_body": breaks_off or number < len(pieces)}
            for number, piece in enumerate(pieces, start=1)
        ]
        if breaks_off:
            self.leaves.set()

    async def receive(self) -> dict[str, Any]:
        if self._events:
            return self._events.pop(0)
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, event: Any) -> None:
        self.sent.append(dict(event))

    @property
    def status(self) -> int:
        status: int = self.sent[0]["status"]
        return status

    @property
    def headers(self) -> Headers:
        headers: Headers = self.sent[0]["headers"]
        return headers

    @property
    def chunks(self) -> list[bytes]:
        return [event["body"] for event in self.sent[1:]]

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)
