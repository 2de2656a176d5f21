"""OpenAI's chat completions: https://platform.openai.com/docs/api-reference/chat."""

from __future__ import annotations

from collections.abc import Mapping

from proxy.answer.frames import done_line
from proxy.answer.stream_copy import StreamCopy
from proxy.dialects.chat_completions.deltas import Deltas
from proxy.dialects.chat_completions.reply import decode_reply
from proxy.dialects.chat_completions.request import decode
from proxy.errors import ReservoirError
from proxy.prompt.chat import Chat, Json, MemoryRole, Reply


class ChatCompletions:
    name = "chat_completions"
    title = "Chat Completions"
    path = "chat/completions"
    names = True
    key_header = b"authorization"
    headers: Mapping[str, str] = {}
    messages_field = "messages"
    in_parts = False

    def instructions(self, fields: Json) -> tuple[str, ...]:
        return ()

    def decode(self, body: bytes) -> Chat:
        return decode(body)

    def place(self, role: MemoryRole) -> MemoryRole:
        return role

    def copy(self) -> StreamCopy:
        return StreamCopy(Deltas(), done_line, error_event)

    def reply(self, body: bytes) -> Reply:
        return decode_reply(body)

    def error(self, error: ReservoirError) -> bytes:
        return error.body()


def error_event(error: ReservoirError) -> bytes:
    """The event that reports a failure after the stream has begun."""
    return b"data: " + error.body() + b"\n\n"


CHAT_COMPLETIONS = ChatCompletions()
