"""Pure: a conversation of LibreChat's JSON export, flat or with each message's children inside it."""

from __future__ import annotations

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


def reads(value: Json) -> bool:
    return "conversationId" in value and ("messages" in value or "messagesTree" in value)


def read(value: Json) -> Conversation:
    """Raises ValueError for messages that are not a list of objects."""
    messages = _flat(value.get("messages") or value.get("messagesTree") or [])
    found, bad = read_each(((f"messages[{at}]", message) for at, message in _current(messages)), _said)
    return Conversation(
        source="librechat",
        id=first_text(value, ("conversationId",)),
        title=first_text(value, ("title",)),
        created=moment(value.get("createdAt")),
        said=found,
        bad=bad,
    )


def _flat(messages: object) -> list[Json]:
    """All messages, each before its children, the latest branch last."""
    found: list[Json] = []
    left = objects(messages, "messages")[::-1]
    while left:
        message = left.pop()
        found.append(message)
        children = objects(message.get("children") or [], "children")
        known = message.get("messageId")
        left += [{"parentMessageId": known, **child} for child in reversed(children)]
    return found


def _current(messages: list[Json]) -> list[tuple[int, Json]]:
    """The branch that ends in the latest message, with positions; all messages if they do not name their parents."""
    places = {one["messageId"]: at for at, one in enumerate(messages) if isinstance(one.get("messageId"), str)}
    parents = {
        key: parent if isinstance(parent := messages[at].get("parentMessageId"), str) else None
        for key, at in places.items()
    }
    if len(places) < len(messages) or not any(parent in places for parent in parents.values()):
        return list(enumerate(messages))
    leaf = max(places, key=lambda key: (first_text(messages[places[key]], ("createdAt",)), places[key]))
    return [(places[key], messages[places[key]]) for key in branch(parents, leaf)]


def _said(message: Json) -> Said | None:
    by_user = message.get("isCreatedByUser")
    if not isinstance(by_user, bool):
        role = {"user": "user", "assistant": "assistant"}.get(str(message.get("role") or message.get("sender")).lower())
        if role is None:
            raise ValueError("it does not say whether a user wrote it")
    else:
        role = "user" if by_user else "assistant"
    text = text_of(message.get("text")) or text_of(message.get("content"))
    if message.get("error") is True or not text.strip():
        return None
    return said(role, text, id=first_text(message, ("messageId",)), created=moment(message.get("createdAt")))
