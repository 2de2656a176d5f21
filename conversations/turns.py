"""What a message says: its role, its plain text, and the digest that tells two turns apart. Pure."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

Json = dict[str, Any]
Count = Callable[[str], int]  # text -> tokens

NAME_LENGTH = 200  # characters of the name of a partition, an instance or a participant
ROLE_LENGTH = 16  # characters

# What PostgreSQL's text cannot hold (NUL) or UTF-8 cannot encode (lone surrogates).
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class Turn(NamedTuple):
    """A message on its way into the store. `payload` is its JSON text as the API sent it."""

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
            role=storable(str(payload.get("role") or ""))[:ROLE_LENGTH],
            name=storable(name)[:NAME_LENGTH] if isinstance(name, str) else "",
            content=plain_text(payload),
            payload=raw,
            digest=digest(payload),
        )


def storable(text: str) -> str:
    """The text with what cannot be stored replaced by U+FFFD."""
    if "\0" not in text:
        with suppress(UnicodeEncodeError):
            text.encode()  # tells ten times faster than the expression whether there is anything to replace
            return text
    return UNSTORABLE.sub("\ufffd", text)


def storable_json(value: Any) -> Any:
    """A JSON value from outside as PostgreSQL's jsonb can hold it: no NUL, no half pairs, no NaN."""
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
    """The words of a message: its text content, text parts joined by line breaks, its refusal, or what was spoken."""
    content = payload.get("content")
    if isinstance(content, str):
        texts = [content]
    else:
        parts = _objects(content)
        texts = [text for part in parts if isinstance(text := part.get("text") or part.get("refusal"), str)]
    if not any(texts) and isinstance(refusal := payload.get("refusal"), str):
        texts = [refusal]
    audio = payload.get("audio")
    if not any(texts) and isinstance(audio, dict) and isinstance(transcript := audio.get("transcript"), str):
        texts = [transcript]
    return storable("\n".join(texts))


NO_ATTACHMENT = {"text", "refusal", "thinking"}  # keys of parts of a content that are words


def digest(payload: Mapping[str, Any]) -> bytes:
    """16 bytes that are equal for what is one turn to a reader, however a client library spells it.

    Libraries resend an answer with null fields added or left out, its text as a string or as a list of one
    part, with white space trimmed, without its thinking, a call's arguments as JSON of their own spelling. Text, calls
    and attachments count; so does the role.
    """
    attachments = [part for part in _objects(payload.get("content")) if not NO_ATTACHMENT.intersection(part)]
    essence = [
        payload.get("role"),
        plain_text(payload).strip(),
        attachments,
        [_call(call) for call in _objects(payload.get("tool_calls"))],
        payload.get("function_call") or None,
        payload.get("tool_call_id") or None,
    ]
    text = json.dumps(essence, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _objects(value: Any) -> list[dict[str, Any]]:
    """The objects of a list; none where it is no list: what a client or provider sends may be anything."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _call(call: Mapping[str, Any]) -> list[Any]:
    function = call.get("function")
    body = function if isinstance(function, dict) else call.get("custom")
    if isinstance(body, dict) and isinstance(arguments := body.get("arguments"), str):
        body = body | {"arguments": _spelt_alike(arguments)}
    return [call.get("id"), body]


def _spelt_alike(arguments: str) -> str:
    """The JSON text that says the same, and is one for all spellings; any other text as it is."""
    try:
        return json.dumps(json.loads(arguments), sort_keys=True)
    except (ValueError, RecursionError):
        return arguments


def conversation_key(digests: Iterable[bytes]) -> bytes:
    """16 bytes that stand for a run of turns."""
    return hashlib.blake2b(b"".join(digests), digest_size=16).digest()
