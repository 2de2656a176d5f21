"""Anthropic's Messages as the fake provider speaks them: messages, events, errors."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Any

from tests.fake_provider.answers import Answer, Headers, Pause, Piece, Request

Json = dict[str, Any]


def text(said: str) -> Json:
    return {"type": "text", "text": said}


def tool_use(name: str, given: Json, id_: str) -> Json:
    return {"type": "tool_use", "id": id_, "name": name, "input": given}


def thinking(thought: str, signature: str) -> Json:
    return {"type": "thinking", "thinking": thought, "signature": signature}


def message(content: Sequence[Json], *, model: str = "claude-sonnet-4-5", **more: Any) -> Json:
    """A whole message with this content."""
    calls = any(block["type"] == "tool_use" for block in content)
    return {
        "id": f"msg_{uuid.uuid4().hex}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": list(content),
        "stop_reason": "tool_use" if calls else "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 9,
            "cache_creation_input_tokens": 5,
            "cache_read_input_tokens": 2,
            "output_tokens": 3,
        },
    } | more


def whole(content: Sequence[Json], headers: Headers = (), **more: Any) -> Answer:
    return Answer(200, [("Content-Type", "application/json"), *headers], json.dumps(message(content, **more)).encode())


def error(status: int, kind: str, said: str) -> Answer:
    body = {"type": "error", "error": {"type": kind, "message": said}, "request_id": "req_fake"}
    headers = [("Content-Type", "application/json"), ("request-id", "req_fake")]
    return Answer(status, headers, json.dumps(body).encode())


def event(kind: str, **data: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind} | data)}\n\n".encode()


def events(content: Sequence[Json], **more: Any) -> list[bytes]:
    """The events of a streamed message, one word of a text each."""
    made = message(content, **more)
    begun = made | {"content": [], "stop_reason": None, "usage": made["usage"] | {"output_tokens": 1}}
    told = [event("message_start", message=begun)]
    for index, block in enumerate(content):
        told += _block_events(index, block)
        if index == 0:
            told.append(event("ping"))
    ended = {"stop_reason": made["stop_reason"], "stop_sequence": None}
    told.append(event("message_delta", delta=ended, usage={"output_tokens": made["usage"]["output_tokens"]}))
    return [*told, event("message_stop")]


def _block_events(index: int, block: Json) -> list[bytes]:
    begun: Json = dict(block)
    deltas: list[Json] = []
    if block["type"] == "text":
        begun["text"] = ""
        words = block["text"].split(" ")
        deltas = [{"type": "text_delta", "text": f" {word}" if i else word} for i, word in enumerate(words)]
    elif block["type"] == "thinking":
        begun |= {"thinking": "", "signature": ""}
        deltas = [{"type": "thinking_delta", "thinking": block["thinking"]}]
        deltas.append({"type": "signature_delta", "signature": block["signature"]})
    elif block["type"] == "tool_use":
        begun["input"] = {}
        raw = json.dumps(block["input"])
        half = len(raw) // 2
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in ("", raw[:half], raw[half:])]
    return [
        event("content_block_start", index=index, content_block=begun),
        *(event("content_block_delta", index=index, delta=delta) for delta in deltas),
        event("content_block_stop", index=index),
    ]


def stream(
    content: Sequence[Json], *, delay: float = 0.0, tail: Sequence[Piece] = (), headers: Headers = (), **more: Any
) -> Answer:
    pieces: list[Piece] = []
    for data in events(content, **more):
        if pieces and delay:
            pieces.append(Pause(delay))
        pieces.append(data)
    return Answer(200, [("Content-Type", "text/event-stream; charset=utf-8"), *headers], [*pieces, *tail])


def default(request: Request, headers: Headers, delay: float) -> Answer:
    """Repeats the last message that has a text of the user."""
    fields = request.json
    content = [text(f"You said: {_said(fields['messages'])}")]
    model = fields.get("model", "")
    return stream(content, delay=delay, model=model) if fields.get("stream") else whole(content, model=model)


def _said(messages: Sequence[Json]) -> str:
    for one in reversed(messages):
        content = one["content"]
        parts = content if isinstance(content, list) else [text(content)]
        words = [part["text"] for part in parts if part.get("type") == "text"]
        if one["role"] == "user" and words:
            return " ".join(words)
    return "nothing"
