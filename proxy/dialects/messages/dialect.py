"""Anthropic's Messages: https://docs.claude.com/en/api/messages."""

from __future__ import annotations

import json
from collections.abc import Mapping

from proxy.answer.frames import event_of
from proxy.answer.stream_copy import StreamCopy
from proxy.dialects.messages.deltas import LAST, Deltas
from proxy.dialects.messages.reply import decode_reply
from proxy.dialects.messages.request import decode, instructions
from proxy.errors import ReservoirError
from proxy.prompt.chat import Chat, Json, MemoryRole, Reply

# https://docs.claude.com/en/api/errors
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
    431: "invalid_request_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class Messages:
    name = "messages"
    title = "Anthropic's Messages"
    path = "messages"
    names = False
    key_header = b"x-api-key"
    headers: Mapping[str, str] = {"anthropic-version": "2023-06-01"}
    messages_field = "messages"
    in_parts = True

    def instructions(self, fields: Json) -> tuple[str, ...]:
        return instructions(fields)

    def decode(self, body: bytes) -> Chat:
        return decode(body)

    def place(self, role: MemoryRole) -> MemoryRole:
        """Always inside: this API has no system messages among the turns."""
        return "inside"

    def copy(self) -> StreamCopy:
        return StreamCopy(Deltas(), event_of(*LAST), error_event)

    def reply(self, body: bytes) -> Reply:
        return decode_reply(body)

    def error(self, error: ReservoirError) -> bytes:
        return json.dumps(_told(error)).encode()


def error_event(error: ReservoirError) -> bytes:
    """The event that reports a failure after the stream has begun."""
    return f"event: error\ndata: {json.dumps(_told(error))}\n\n".encode()


def _told(error: ReservoirError) -> dict[str, object]:
    kind = _TYPES.get(error.status, "api_error")
    # Where the exchange is stored, its trace id is the id of the request.
    traces = [value.decode() for name, value in error.headers if name == b"x-reservoir-trace-id"]
    return {"type": "error", "error": {"type": kind, "message": error.message}, "request_id": next(iter(traces), None)}


MESSAGES = Messages()
