"""The body of an answer that was not streamed -> its Reply. Pure."""

from __future__ import annotations

import json

from proxy.answer.usage import usage_in
from proxy.prompt.chat import ChatMessage, Json, Reply, is_shallow
from proxy.prompt.json_cost import is_costly


def decode_reply(body: bytes) -> Reply:
    """The body of an answer that was not streamed -> its Reply; an empty Reply for anything else."""
    if is_costly(body):
        return Reply()
    try:
        fields = json.loads(body.decode(), parse_constant=lambda name: None)
        choices = [choice for choice in fields.get("choices") or () if isinstance(choice.get("message"), dict)]
        choices = [choice for choice in choices if is_shallow(choice["message"])]
        choices.sort(key=lambda choice: choice.get("index") or 0)
    except (ValueError, RecursionError, AttributeError, TypeError):
        return Reply()
    return Reply(
        messages=tuple(ChatMessage.make(_answer(choice["message"])) for choice in choices),
        finish_reasons=tuple(str(choice.get("finish_reason") or "") for choice in choices),
        usage=usage_in(fields),
        error=fields.get("error"),
        complete=bool(choices),
    )


def _answer(payload: Json) -> Json:
    """An answer's message; the role is the assistant's if it has none."""
    return payload if isinstance(payload.get("role"), str) else payload | {"role": "assistant"}
