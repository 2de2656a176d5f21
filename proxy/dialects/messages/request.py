"""The body of a request to Anthropic's Messages -> its Chat. Pure.

https://docs.claude.com/en/api/messages

Results of tools come in messages of the user. A message that brings nothing else is the tools' turn, not the user's.
"""

from __future__ import annotations

from typing import Any

from conversations.shapes import objects, role_of
from proxy.errors import BadRequest
from proxy.prompt.chat import Chat, ChatMessage, Json, model_of, parsed
from proxy.prompt.json_spans import element_spans

LONGEST_ROLE = 16  # characters


def decode(body: bytes) -> Chat:
    """A request body -> its Chat.

    Raises BadRequest for a body that is no request: not JSON (RFC 8259, UTF-8), not an object, without messages, or
    with messages of a wrong type.
    """
    text, fields, spans = parsed(body)
    model_of(fields)
    given = fields.get("messages")
    if not isinstance(given, list):
        problem = "messages: Field required" if "messages" not in fields else "messages: Input should be a valid list"
        raise BadRequest(f"{problem}.", param="messages")
    if not given:
        raise BadRequest("messages: at least one message is required.", code="empty_array", param="messages")
    span = spans["messages"]
    payloads = [_checked(payload, i) for i, payload in enumerate(given)]
    places = element_spans(text, span[0])
    messages = tuple(
        ChatMessage(text[start:end], payload, role_of(payload))
        for payload, (start, end) in zip(payloads, places, strict=True)
    )
    return Chat(
        text,
        fields,
        messages,
        span,
        spans.get("model"),
        dialect="messages",
        instructions=instructions(fields),
        in_parts=True,
    )


def instructions(fields: Json) -> tuple[str, ...]:
    """The texts of the system prompt."""
    given = fields.get("system")
    if isinstance(given, str):
        return (given,)
    return tuple(text for part in objects(given) if isinstance(text := part.get("text"), str))


def _checked(payload: Any, index: int) -> Json:
    where = f"messages.{index}"
    if not isinstance(payload, dict):
        raise BadRequest(f"{where}: Input should be an object.", code="invalid_type", param=where)
    role = payload.get("role")
    # Anthropic refuses unknown roles itself.
    if not isinstance(role, str) or not 0 < len(role) <= LONGEST_ROLE or not role.isprintable():
        raise BadRequest(
            f"{where}.role: Input should be 'user' or 'assistant'.", code="invalid_value", param=f"{where}.role"
        )
    return payload
