"""Pure: a chat of Open WebUI's export: a tree of messages, of which the current branch is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from conversations.archive.foreign.conversation import (
    NEVER_STORED,
    Conversation,
    Said,
    branch,
    first_text,
    moment,
    objects,
    read_each,
    said,
    text_of,
    without_details,
)
from conversations.turns import Json

NOT_SPOKEN = {"reasoning", "code_interpreter", "tool_calls"}


def reads(value: Json) -> bool:
    chat = value.get("chat", value)
    return isinstance(chat, dict) and ("history" in chat or ("chat" in value and "messages" in chat))


def read(value: Json) -> Conversation:
    """Raises ValueError for a history that cannot be walked."""
    chat = value.get("chat", value)
    found, bad = read_each(
        ((f"message {key[:50]!r}", (key, message)) for key, message in _current(chat).items()),
        lambda pair: _said(*pair),
    )
    created = value.get("created_at") or chat.get("timestamp")
    return Conversation(
        source="open-webui",
        id=first_text(value, ("id",)) or first_text(chat, ("id",)),
        title=first_text(value, ("title",)) or first_text(chat, ("title",)),
        created=moment(created),
        said=found,
        bad=bad,
    )


def _current(chat: Json) -> Mapping[str, Any]:
    """The messages of the current branch, oldest first, by id."""
    history = chat.get("history")
    if history is None:
        return {str(one.get("id") or at): one for at, one in enumerate(objects(chat["messages"], "chat.messages"))}
    messages = history.get("messages") if isinstance(history, dict) else None
    if not isinstance(messages, dict) or not all(isinstance(one, dict) for one in messages.values()):
        raise ValueError("history.messages is not an object of messages")
    parents = {key: p if isinstance(p := one.get("parentId"), str) else None for key, one in messages.items()}
    leaf = history.get("currentId")
    if not isinstance(leaf, str) or leaf not in messages:
        leaf = next((key for key in reversed(messages) if not messages[key].get("childrenIds")), None)
    return {key: messages[key] for key in branch(parents, leaf)}


def _said(key: str, message: Json) -> Said | None:
    role = message.get("role")
    if not isinstance(role, str) or not role.strip():
        raise ValueError("it has no role")
    text = text_of(message.get("content"))
    if role == "assistant":
        text = without_details(text, NOT_SPOKEN)
    if role in NEVER_STORED or not text.strip():
        return None
    return said(role, text, id=key, created=moment(message.get("timestamp")))
