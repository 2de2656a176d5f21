"""OpenAI's Responses: https://platform.openai.com/docs/api-reference/responses."""

from __future__ import annotations

import json
from collections.abc import Mapping

from proxy.answer.frames import event_of
from proxy.answer.stream_copy import StreamCopy
from proxy.dialects.responses.deltas import LAST, Deltas
from proxy.dialects.responses.reply import decode_reply
from proxy.dialects.responses.request import decode, instructions
from proxy.errors import ReservoirError
from proxy.prompt.chat import Chat, Json, MemoryRole, Reply


class Responses:
    name = "responses"
    title = "Responses"
    path = "responses"
    names = False
    key_header = b"authorization"
    headers: Mapping[str, str] = {}
    messages_field = "input"
    in_parts = False

    def instructions(self, fields: Json) -> tuple[str, ...]:
        return instructions(fields)

    def decode(self, body: bytes) -> Chat:
        return decode(body)

    def place(self, role: MemoryRole) -> MemoryRole:
        """An item of its own: what a provider asks to stand inside the last message is another message of the user."""
        return "user" if role == "inside" else role

    def copy(self) -> StreamCopy:
        return StreamCopy(Deltas(), event_of(*LAST), error_event)

    def reply(self, body: bytes) -> Reply:
        return decode_reply(body)

    def error(self, error: ReservoirError) -> bytes:
        return error.body()


def error_event(error: ReservoirError) -> bytes:
    """The event that reports a failure after the stream has begun, in both forms that clients look for."""
    told = {"type": error.type, "code": error.code, "message": error.message, "param": error.param}
    event = {**told, "type": "error", "sequence_number": 0, "error": told}
    return f"event: error\ndata: {json.dumps(event)}\n\n".encode()


RESPONSES = Responses()
