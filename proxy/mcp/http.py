"""The tools over streamable HTTP, each request on its own: `…/mcp` below a base URL.

The guard has checked the host and the origin, the gate the key, and the path names the scope, before a request comes
here.
"""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

from django.conf import settings

from proxy import runtime
from proxy.errors import MethodNotAllowed
from proxy.handler import ApiRequest
from proxy.mcp.assistant import Assistant
from proxy.pipeline import Outcome

ASSISTANT = "reservoir.assistant"  # the assistant's place in the ASGI scope

_sessions: dict[int, asyncio.Future[Any]] = {}  # by event loop: the SDK's session manager, running


async def answer(request: ApiRequest, assistant: Assistant) -> Outcome:
    """The answer of the SDK's server to a request.

    There are no sessions, so there is nothing that a client could listen to by GET or end by DELETE; the protocol has
    405 for that. Raises MethodNotAllowed.
    """
    if request.method != "POST":
        raise MethodNotAllowed("MCP takes POST here: this server keeps no sessions and sends nothing by itself.")
    manager = await _running()
    sent: list[MutableMapping[str, Any]] = []
    body = request.file.read()

    async def receive() -> MutableMapping[str, Any]:
        nonlocal body
        part, body = body, b""
        return {"type": "http.request", "body": part, "more_body": False}

    async def send(event: MutableMapping[str, Any]) -> None:
        sent.append(event)

    await manager.handle_request({**request.scope, "path": "/mcp", ASSISTANT: assistant}, receive, send)
    start = next(event for event in sent if event["type"] == "http.response.start")
    content = b"".join(event.get("body", b"") for event in sent if event["type"] == "http.response.body")
    headers = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
    return Outcome(start["status"], headers, content)


async def _running() -> Any:
    """The session manager, started with the first request: importing the SDK takes a second."""
    loop = asyncio.get_running_loop()
    if id(loop) not in _sessions:
        _sessions[id(loop)] = loop.create_future()
        made = await asyncio.to_thread(_made)
        task = asyncio.create_task(_hold(made, _sessions[id(loop)]))
        runtime.current().tasks.append(task)
    return await asyncio.shield(_sessions[id(loop)])


async def _hold(manager: Any, ready: asyncio.Future[Any]) -> None:
    async with manager.run():
        ready.set_result(manager)
        await asyncio.Event().wait()


def _made() -> Any:
    from mcp.server.transport_security import TransportSecuritySettings

    from proxy.mcp.tools import server

    def assistant_of(context: Any) -> Assistant:
        assistant: Assistant = context.request_context.request.scope[ASSISTANT]
        return assistant

    made = server(assistant_of)
    made.streamable_http_app(
        json_response=True,
        stateless_http=True,
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),  # the guard's task
        max_request_body_size=settings.RESERVOIR_BODY_LIMIT,
    )
    return made.session_manager
