"""The message that Anthropic's Messages answer with -> its Reply. Pure."""

from __future__ import annotations

from typing import Any

from proxy.answer.json_events import decoded
from proxy.answer.usage import usage_in
from proxy.prompt.chat import ChatMessage, Json, Reply, is_shallow


def decode_reply(body: bytes) -> Reply:
    """The body of an answer that was not streamed -> its Reply; an empty Reply for anything else."""
    message = decoded(body)
    if not isinstance(message, dict):
        return Reply()
    content = message.get("content")
    if not isinstance(content, list) or not is_shallow(content):
        error = message.get("error")
        return Reply(error=error if is_shallow(error) else None)
    return reply_of(content, message.get("stop_reason"), usage_in(message), complete=True)


def reply_of(content: list[Any], stop_reason: Any, usage: Json | None, *, complete: bool, error: Any = None) -> Reply:
    message = ChatMessage.make({"role": "assistant", "content": content})
    return Reply(
        messages=(message,) if content else (),
        finish_reasons=(stop_reason,) if isinstance(stop_reason, str) else (),
        usage=usage,
        error=error,
        complete=complete and error is None,
    )
