"""Pure: a conversation as the chat API has it: {"messages": [{"role": ..., "content": ...}, ...]}."""

from __future__ import annotations

from typing import Any

from conversations.archive.foreign.conversation import NEVER_STORED, Conversation, Said, first_text, moment, read_each
from conversations.turns import ROLE_LENGTH, UNSTORABLE, Json, plain_text

IDS = ("id", "uuid", "conversation_id")
TITLES = ("title", "name")
TIMES = ("created", "created_at", "create_time", "timestamp")


def reads(value: Json) -> bool:
    return "messages" in value and "trace_id" not in value


def read(value: Json) -> Conversation:
    """Raises ValueError for messages that are not a list."""
    messages = value["messages"]
    if not isinstance(messages, list):
        raise ValueError("messages is not a list")
    found, bad = read_each(((f"messages[{at}]", message) for at, message in enumerate(messages)), _said)
    return Conversation(
        source="imported",
        id=first_text(value, IDS),
        title=first_text(value, TITLES),
        created=_time(value),
        said=found,
        bad=bad,
    )


def _said(message: Any) -> Said | None:
    if not isinstance(message, dict):
        raise ValueError("it is not an object")
    role = message.get("role")
    if not isinstance(role, str) or not role.strip() or len(role) > ROLE_LENGTH or UNSTORABLE.search(role):
        raise ValueError("its role is missing or invalid")
    if role in NEVER_STORED or not (plain_text(message).strip() or message.get("tool_calls")):
        return None
    payload = {name: given for name, given in message.items() if name not in (*TIMES, "id")}
    return Said(payload, first_text(message, ("id",)), _time(message))


def _time(value: Json) -> Any:
    return next((moment(value[name]) for name in TIMES if value.get(name) is not None), None)
