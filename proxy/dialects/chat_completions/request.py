"""The body of a chat completion -> its Chat. Pure.

https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

from typing import Any

from proxy.errors import BadRequest
from proxy.prompt.chat import ROLES, Chat, ChatMessage, Json, model_of, parsed
from proxy.prompt.json_spans import element_spans

LONGEST_ROLE = 16  # characters


def decode(body: bytes) -> Chat:
    """A request body -> its Chat.

    Raises BadRequest for a body that is not a chat request: not JSON (RFC 8259, UTF-8), not an object, without
    messages, or with messages of a wrong type.
    """
    text, fields, spans = parsed(body)
    raw_messages = fields.get("messages")
    if not isinstance(raw_messages, list):
        problem = "Missing required parameter" if "messages" not in fields else "Invalid type"
        raise BadRequest(f"{problem}: 'messages' must be an array of messages.", param="messages")
    if not raw_messages:
        raise BadRequest("'messages' must hold at least one message.", code="empty_array", param="messages")
    span = spans["messages"]
    payloads = [_checked(payload, i) for i, payload in enumerate(raw_messages)]
    pairs = zip(payloads, element_spans(text, span[0]), strict=True)
    messages = tuple(ChatMessage(text[start:end], payload) for payload, (start, end) in pairs)
    model_of(fields)
    return Chat(text, fields, messages, span, spans.get("model"))


def _checked(payload: Any, index: int) -> Json:
    where = f"messages[{index}]"
    if not isinstance(payload, dict):
        raise BadRequest(f"Invalid type for '{where}': expected an object.", code="invalid_type", param=where)
    role = payload.get("role")
    # Providers have roles of their own ("control", "ipython"), and refuse unknown ones themselves.
    if not isinstance(role, str) or not 0 < len(role) <= LONGEST_ROLE or not role.isprintable():
        raise BadRequest(
            f"Invalid value for '{where}.role': expected one of {', '.join(sorted(ROLES))}.",
            code="invalid_value",
            param=f"{where}.role",
        )
    return payload  # content may have any type: what only a provider knows, a provider judges
