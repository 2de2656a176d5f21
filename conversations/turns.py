"""Pure: what a message says: its role, its plain text, and a digest that identifies equal turns."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from conversations.binary import without_files
from conversations.likeness import spelled, without_thinking
from conversations.shapes import attachments_of, calls_of, role_of, texts_of
from conversations.tool_marks import without_marked

Json = dict[str, Any]
Count = Callable[[str], int]  # text -> tokens

NAME_LENGTH = 200  # characters of the name of a partition, an instance or a participant
ROLE_LENGTH = 16  # characters

# NUL, which PostgreSQL's text cannot hold, and lone surrogates, which UTF-8 cannot encode.
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class Turn(NamedTuple):
    """A message to be stored. `payload` is its JSON text as the API sent it."""

    role: str
    name: str
    content: str
    payload: str
    digest: bytes

    @classmethod
    def from_payload(cls, raw: str, payload: Mapping[str, Any]) -> Turn:
        """The turn of an API message: `raw` is its JSON text, `payload` the same text decoded."""
        name = payload.get("name")
        return cls(
            role=storable(role_of(payload))[:ROLE_LENGTH],
            name=storable(name)[:NAME_LENGTH] if isinstance(name, str) else "",
            content=plain_text(payload),
            payload=raw,
            digest=digest(payload),
        )


def storable(text: str) -> str:
    """The text with characters that cannot be stored replaced by U+FFFD."""
    if "\0" not in text:
        with suppress(UnicodeEncodeError):
            text.encode()  # ten times faster than the expression, and nearly every text passes
            return text
    return UNSTORABLE.sub("\ufffd", text)


def storable_json(value: Any) -> Any:
    """A JSON value as PostgreSQL's jsonb can hold it: without NUL, lone surrogates and NaN."""
    match value:
        case str():
            return storable(value)
        case dict():
            return {storable(str(key)): storable_json(item) for key, item in value.items()}
        case list():
            return [storable_json(item) for item in value]
        case float() if not math.isfinite(value):
            return None
        case _:
            return value


def plain_text(payload: Mapping[str, Any]) -> str:
    """The words of a turn: its texts, joined by line breaks.

    Files written into the text (data URLs, Base64) are replaced by a note, and what a coding tool wrote into a user's
    message is left out.
    """
    return storable(without_files(_words(payload)))


def whole_text(payload: Mapping[str, Any]) -> str:
    """The words of a turn with what a coding tool wrote into them."""
    return storable(without_files("\n".join(texts_of(payload))))


def _words(payload: Mapping[str, Any]) -> str:
    texts = texts_of(payload)
    if role_of(payload) == "assistant":
        return "\n".join(texts)
    own = ((text, without_marked(text)) for text in texts)
    return "\n".join(left for text, left in own if left or not text)


def digest(payload: Mapping[str, Any]) -> bytes:
    """16 bytes that are equal for turns that a reader would call the same, however a client library spells them and
    whichever API they come through.

    Libraries resend an answer with null fields added or omitted, with its text as a string or as a list of one part,
    in other Unicode forms and line ends (likeness.spelled), without its thinking, with a call's arguments as
    differently spelt JSON, or with their own ids for calls. The digest covers the role, the text, the calls and the
    attachments.
    """
    role, words = role_of(payload), storable(_words(payload))
    essence = [
        role if isinstance(payload.get("role"), str) or role else payload.get("role"),
        spelled(without_thinking(words) if role == "assistant" else words),
        attachments_of(payload),
        calls_of(payload),
        payload.get("function_call") or None,
    ]
    # A message without calls has the digest that it had when ids counted.
    essence.append(None)
    text = json.dumps(essence, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def conversation_key(digests: Iterable[bytes]) -> bytes:
    """16 bytes that identify a run of turns."""
    return hashlib.blake2b(b"".join(digests), digest_size=16).digest()
