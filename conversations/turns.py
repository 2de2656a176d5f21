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
            role=storable(str(payload.get("role") or ""))[:ROLE_LENGTH],
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
    """The words of a message: its text (parts joined by line breaks), its refusal, or the transcript of its audio.

    Files written into the text (data URLs, Base64) are replaced by a note.
    """
    return storable(without_files(_words(payload)))


def _words(payload: Mapping[str, Any]) -> str:
    content = payload.get("content")
    parts = content if isinstance(content, list) else [content]
    texts = [text for part in parts if isinstance(text := _part_text(part), str)]
    if not any(texts) and isinstance(refusal := payload.get("refusal"), str):
        texts = [refusal]
    audio = payload.get("audio")
    if not any(texts) and isinstance(audio, dict) and isinstance(transcript := audio.get("transcript"), str):
        texts = [transcript]
    return "\n".join(texts)


def _part_text(part: Any) -> Any:
    """The text of a content part; some clients write a string in its place."""
    return (part.get("text") or part.get("refusal")) if isinstance(part, dict) else part


NO_ATTACHMENT = {"text", "refusal", "thinking"}  # content parts with one of these keys are words


def digest(payload: Mapping[str, Any]) -> bytes:
    """16 bytes that are equal for turns that a reader would call the same, however a client library spells them.

    Libraries resend an answer with null fields added or omitted, with its text as a string or as a list of one part,
    in other Unicode forms and line ends (likeness.spelled), without its thinking, with a call's arguments as
    differently spelt JSON, or with their own ids for calls. The digest covers the role, the text, the calls and the
    attachments.
    """
    words = storable(_words(payload))
    attachments = [part for part in _parts(payload.get("content")) if not NO_ATTACHMENT.intersection(part)]
    essence = [
        payload.get("role"),
        spelled(without_thinking(words) if payload.get("role") == "assistant" else words),
        attachments,
        calls(payload),
        payload.get("function_call") or None,
    ]
    # A message without calls has the digest that it had when ids counted.
    essence.append(None)
    text = json.dumps(essence, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _objects(value: Any) -> list[dict[str, Any]]:
    """The objects in a list, and none if the value is not a list: clients and providers may send anything."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _parts(content: Any) -> list[Any]:
    """The parts of a content that are objects. Content of a type that no API names counts as one part."""
    return [{"content": content}] if isinstance(content, int | float | dict) else _objects(content)


def calls(payload: Mapping[str, Any]) -> list[Any]:
    """The tool calls of a message as values that are equal where the calls are, whatever their ids."""
    return [_call(call) for call in _objects(payload.get("tool_calls"))]


def calls_in(raw: str) -> list[Any]:
    """The tool calls in a message's JSON text, as calls() gives them; none in what is no object."""
    payload = json.loads(raw) if '"tool_calls"' in raw else None
    return calls(payload) if isinstance(payload, dict) else []


def _call(call: Mapping[str, Any]) -> Any:
    function = call.get("function")
    body = function if isinstance(function, dict) else call.get("custom")
    if isinstance(body, dict) and isinstance(arguments := body.get("arguments"), str):
        body = body | {"arguments": _spelt_alike(arguments)}
    return body


def _spelt_alike(arguments: str) -> str:
    """JSON text in one canonical spelling; any other text unchanged."""
    try:
        return json.dumps(json.loads(arguments), sort_keys=True)
    except (ValueError, RecursionError):
        return arguments


def conversation_key(digests: Iterable[bytes]) -> bytes:
    """16 bytes that identify a run of turns."""
    return hashlib.blake2b(b"".join(digests), digest_size=16).digest()
