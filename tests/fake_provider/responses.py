"""OpenAI's Responses as the fake provider speaks them: items, whole responses, typed events."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Any

from tests.fake_provider.answers import CREATED, Answer, Headers, Pause, Piece, Request

Json = dict[str, Any]


def message(text: str, **more: Any) -> Json:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    item = {"id": f"msg_{uuid.uuid4().hex}", "type": "message", "status": "completed", "role": "assistant"}
    return item | {"content": [part]} | more


def call(name: str, arguments: str, call_id: str) -> Json:
    item = {"id": f"fc_{uuid.uuid4().hex}", "type": "function_call", "status": "completed"}
    return item | {"call_id": call_id, "name": name, "arguments": arguments}


def thought(encrypted: str) -> Json:
    return {"id": f"rs_{uuid.uuid4().hex}", "type": "reasoning", "summary": [], "encrypted_content": encrypted}


def response(items: Sequence[Json], *, model: str = "gpt-4o", **more: Any) -> Json:
    """A response object with this output."""
    return {
        "id": f"resp_{uuid.uuid4().hex}",
        "object": "response",
        "created_at": CREATED,
        "status": "completed",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": model,
        "output": list(items),
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": {
            "input_tokens": 9,
            "input_tokens_details": {"cached_tokens": 2},
            "output_tokens": 3,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 12,
        },
    } | more


def whole(items: Sequence[Json], headers: Headers = (), **more: Any) -> Answer:
    body = json.dumps(response(items, **more)).encode()
    return Answer(200, [("Content-Type", "application/json"), *headers], body)


def events(items: Sequence[Json], **more: Any) -> list[bytes]:
    """The typed events of a streamed response, one word of a text each."""
    made = response(items, **more)
    begun = made | {"output": [], "status": "in_progress", "usage": None}
    told: list[tuple[str, Json]] = [("response.created", {"response": begun})]
    told.append(("response.in_progress", {"response": begun}))
    for place, item in enumerate(items):
        told += _item_events(place, item)
    told.append((f"response.{made['status']}", {"response": made}))
    return [event(kind, data | {"sequence_number": number}) for number, (kind, data) in enumerate(told)]


def event(kind: str, data: Json) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind} | data)}\n\n".encode()


def _item_events(place: int, item: Json) -> list[tuple[str, Json]]:
    where = {"output_index": place, "item_id": item["id"]}
    begun = item | {"status": "in_progress"}
    told: list[tuple[str, Json]] = []
    if item["type"] == "message":
        told.append(("response.output_item.added", {"output_index": place, "item": begun | {"content": []}}))
        for number, part in enumerate(item["content"]):
            at = where | {"content_index": number}
            told.append(("response.content_part.added", at | {"part": part | {"text": ""}}))
            words = part["text"].split(" ")
            for word in (f" {word}" if i else word for i, word in enumerate(words)):
                told.append(("response.output_text.delta", at | {"delta": word, "logprobs": []}))
            told.append(("response.output_text.done", at | {"text": part["text"], "logprobs": []}))
            told.append(("response.content_part.done", at | {"part": part}))
    elif item["type"] == "function_call":
        told.append(("response.output_item.added", {"output_index": place, "item": begun | {"arguments": ""}}))
        half = len(item["arguments"]) // 2
        for piece in (item["arguments"][:half], item["arguments"][half:]):
            told.append(("response.function_call_arguments.delta", where | {"delta": piece}))
        done = where | {"arguments": item["arguments"], "name": item["name"]}
        told.append(("response.function_call_arguments.done", done))
    else:
        told.append(("response.output_item.added", {"output_index": place, "item": begun}))
    told.append(("response.output_item.done", {"output_index": place, "item": item}))
    return told


def stream(
    items: Sequence[Json], *, delay: float = 0.0, tail: Sequence[Piece] = (), headers: Headers = (), **more: Any
) -> Answer:
    pieces: list[Piece] = []
    for data in events(items, **more):
        if pieces and delay:
            pieces.append(Pause(delay))
        pieces.append(data)
    return Answer(200, [("Content-Type", "text/event-stream; charset=utf-8"), *headers], [*pieces, *tail])


def default(request: Request, headers: Headers, delay: float) -> Answer:
    """Repeats the last user message."""
    fields = request.json
    items = [message(f"You said: {_said(fields.get('input', ''))}")]
    more = {"model": fields.get("model", ""), "previous_response_id": fields.get("previous_response_id")}
    if fields.get("background"):
        more |= {"background": True, "status": "queued", "output": [], "usage": None}
        return whole([], headers, **more)
    return stream(items, delay=delay, **more) if fields.get("stream") else whole(items, headers[1:], **more)


def _said(given: Any) -> str:
    items = given if isinstance(given, list) else [{"role": "user", "content": given}]
    for item in reversed(items):
        if item.get("role") == "user":
            content = item.get("content")
            parts = content if isinstance(content, list) else [{"text": content}]
            return " ".join(part.get("text") or "" for part in parts)
    return "nothing"
