"""Requests to the server over plain HTTP, with full control over their bytes."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx

from tests.server import Server

Scope = tuple[str, str]
JSON = {"Content-Type": "application/json"}


def chat(server: Server, scope: Scope, body: Any, **headers: str) -> httpx.Response:
    """Post a chat request as given: JSON text, bytes, or a value."""
    content = body if isinstance(body, str | bytes) else json.dumps(body)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    url = f"{server.base_url(*scope)}/chat/completions"
    return httpx.post(url, content=content, headers=JSON | names, timeout=30, trust_env=False)


def says(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "gpt-4", "messages": [{"role": "user", "content": text}], **more}


def streamed(server: Server, scope: Scope, body: Any) -> tuple[bytes, list[float]]:
    """The chunks of a stream, each with its time of arrival."""
    times, data = [], b""
    url = f"{server.base_url(*scope)}/chat/completions"
    with httpx.stream("POST", url, json=body, timeout=30, trust_env=False) as answer:
        for part in answer.iter_raw():
            times.append(time.monotonic())
            data += part
    return data, times
