"""Pure: a conversation of ChatGPT's conversations.json: a tree of nodes, of which the current branch is read."""

from __future__ import annotations

import re
from typing import Any

from conversations.archive.foreign.conversation import Conversation, Said, branch, first_text, moment, read_each, said
from conversations.turns import Json

SPOKEN = {"text", "multimodal_text"}
_CITATION = re.compile("\ue200[^\ue200\ue201]{0,2000}\ue201")  # marks of the web page, in private characters


def reads(value: Json) -> bool:
    return "mapping" in value


def read(value: Json) -> Conversation:
    """Raises ValueError for a tree that cannot be walked."""
    nodes = value["mapping"]
    if not isinstance(nodes, dict) or not all(isinstance(node, dict) for node in nodes.values()):
        raise ValueError("mapping is not an object of nodes")
    parents = {key: parent if isinstance(parent := node.get("parent"), str) else None for key, node in nodes.items()}
    leaf = value.get("current_node")
    if not isinstance(leaf, str) or leaf not in nodes:
        leaf = next((key for key in reversed(nodes) if not nodes[key].get("children")), None)
    found, bad = read_each(
        ((f"node {key[:50]!r}", key) for key in branch(parents, leaf)),
        lambda key: _said(key, nodes[key].get("message")),
    )
    return Conversation(
        source="chatgpt",
        id=first_text(value, ("conversation_id", "id")),
        title=first_text(value, ("title",)),
        created=moment(value.get("create_time")),
        said=found,
        bad=bad,
    )


def _said(key: str, message: Any) -> Said | None:
    """A node's turn; None for empty and hidden nodes, system prompts and the traffic with tools."""
    if message is None:
        return None
    if not isinstance(message, dict):
        raise ValueError("its message is not an object")
    author, content, about = (message.get(name) or {} for name in ("author", "content", "metadata"))
    if not isinstance(author, dict) or not isinstance(content, dict) or not isinstance(about, dict):
        raise ValueError("its author, content or metadata is not an object")
    role = author.get("role")
    if role not in ("user", "assistant") or message.get("recipient", "all") != "all":
        return None
    if about.get("is_visually_hidden_from_conversation") or about.get("is_user_system_message"):
        return None
    if message.get("weight") == 0 or content.get("content_type", "text") not in SPOKEN:
        return None
    parts = content.get("parts") or []
    if not isinstance(parts, list):
        raise ValueError("its parts are not a list")
    text = _CITATION.sub("", "\n".join(filter(None, map(_part, parts))))
    if not text.strip():
        return None
    who = message.get("id")
    created = moment(message.get("create_time"))
    one = said(role, text, id=who if isinstance(who, str) else key, created=created)
    name = author.get("name")
    return Said(one.payload | {"name": name}, one.id, created) if isinstance(name, str) and name.strip() else one


def _part(part: Any) -> str:
    if isinstance(part, dict):  # a picture has no text; what was spoken has its transcript
        part = part.get("text")
    return part if isinstance(part, str) else ""
