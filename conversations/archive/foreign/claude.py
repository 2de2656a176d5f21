"""Pure: a conversation of Claude's conversations.json."""

from __future__ import annotations

from typing import Any

from conversations.archive.foreign.conversation import (
    Conversation,
    Said,
    branch,
    first_text,
    moment,
    objects,
    read_each,
    said,
    text_of,
)
from conversations.turns import Json

ROLES = {"human": "user", "user": "user", "assistant": "assistant"}


def reads(value: Json) -> bool:
    return "chat_messages" in value


def read(value: Json) -> Conversation:
    """Raises ValueError for messages that are not a list of objects."""
    messages = objects(value["chat_messages"], "chat_messages")
    current = _current(messages, value.get("current_leaf_message_uuid"))
    found, bad = read_each(((f"chat_messages[{at}]", message) for at, message in current), _said)
    return Conversation(
        source="claude",
        id=first_text(value, ("uuid", "id")),
        title=first_text(value, ("name", "title")),
        created=moment(value.get("created_at")),
        said=found,
        bad=bad,
    )


def _current(messages: list[Json], leaf: Any) -> list[tuple[int, Json]]:
    """The messages of the current branch with their positions; all of them if they do not name their parents."""
    places = {one["uuid"]: at for at, one in enumerate(messages) if isinstance(one.get("uuid"), str)}
    parents = {key: _parent(messages[at]) for key, at in places.items()}
    if len(places) < len(messages) or not any(parent in places for parent in parents.values()):
        return list(enumerate(messages))
    path = branch(parents, leaf if isinstance(leaf, str) and leaf in places else next(reversed(places)))
    return [(places[key], messages[places[key]]) for key in path]


def _parent(message: Json) -> str | None:
    parent = message.get("parent_message_uuid")
    return parent if isinstance(parent, str) else None


def _said(message: Json) -> Said | None:
    sender = message.get("sender")
    role = ROLES.get(sender) if isinstance(sender, str) else None
    if role is None:
        raise ValueError("its sender is neither human nor assistant")
    text = text_of(message.get("content")) or text_of(message.get("text")) or _attached(message.get("attachments"))
    if not text.strip():
        return None
    return said(role, text, id=first_text(message, ("uuid",)), created=moment(message.get("created_at")))


def _attached(attachments: Any) -> str:
    """The text of what was pasted: Claude makes an attachment of a long one."""
    given = attachments if isinstance(attachments, list) else []
    texts = (one.get("extracted_content") for one in given if isinstance(one, dict))
    return "\n".join(text for text in texts if isinstance(text, str))
