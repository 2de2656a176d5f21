"""The least that a gateway can do: raw ASGI and aiohttp, without parsing, memory or error handling.

PROVIDER=http://127.0.0.1:8000 uvicorn benchmarks.bare:application
"""

from __future__ import annotations

import os
from typing import Any

import aiohttp

_session: list[aiohttp.ClientSession] = []


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await _live(receive, send)
        return
    body, more = b"", True
    while more:
        event = await receive()
        body += event.get("body", b"")
        more = event.get("more_body", False)
    headers = {"Content-Type": "application/json"}
    async with _session[0].post(os.environ["PROVIDER"] + scope["path"], data=body, headers=headers) as answer:
        kept = [(name.lower(), value) for name, value in answer.raw_headers if name.lower() != b"transfer-encoding"]
        await send({"type": "http.response.start", "status": answer.status, "headers": kept})
        async for chunk in answer.content.iter_any():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _live(receive: Any, send: Any) -> None:
    await receive()
    connector = aiohttp.TCPConnector(limit=0)
    _session.append(aiohttp.ClientSession(connector=connector, skip_auto_headers=("Accept-Encoding", "User-Agent")))
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await _session[0].close()
    await send({"type": "lifespan.shutdown.complete"})
