"""A request's body, restored from its stored parts exactly as it was sent. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from json import JSONDecodeError

from proxy.prompt.chat import as_listed

_decoder = json.JSONDecoder()
_BLANK = " \t\n\r"


def body(parameters: str, messages: Sequence[str], *, field: str = "messages", model: str = "") -> str:
    """The text of a request. `parameters` is its text with an empty array for its messages, or with an empty text
    where they were a text; `messages` are the JSON texts that are stored, and `field` is the API's name for them.

    `model`, if given, replaces the model's name by the one that the provider was sent.
    """
    spans = values(parameters)
    start, end = spans.get(field, (0, 0))
    given = (_text(messages) if parameters[start:end] == '""' else None) or f"[{', '.join(map(as_listed, messages))}]"
    if field not in spans and (messages or not spans):
        return f'{{"{field}": {given}}}'
    edits = {field: given} | ({"model": json.dumps(model)} if model else {})
    text = parameters
    for key, (start, end) in sorted(spans.items(), key=lambda item: -item[1][0]):
        if key in edits and (key != "model" or text[start:end] != edits[key]):
            text = text[:start] + edits[key] + text[end:]
    return text


def _text(messages: Sequence[str]) -> str | None:
    """The JSON string that a lone message says; None for several, and for content that is no string."""
    message = messages[0] if len(messages) == 1 else ""
    start, end = values(message).get("content", (0, 0))
    return message[start:end] if message[start : start + 1] == '"' else None


def values(text: str) -> dict[str, tuple[int, int]]:
    """The span of each value of a JSON object, by key; empty for any other text."""
    spans: dict[str, tuple[int, int]] = {}
    at = _skip(text, 0)
    if text[at : at + 1] != "{":
        return {}
    at = _skip(text, at + 1)
    try:
        while text[at] == '"':
            key, at = _decoder.raw_decode(text, at)
            start = _skip(text, _skip(text, at) + 1)
            _, at = _decoder.raw_decode(text, start)
            spans[key] = (start, at)
            at = _skip(text, at)
            if text[at] != ",":
                break
            at = _skip(text, at + 1)
    except (JSONDecodeError, IndexError):
        return {}
    return spans


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _BLANK:
        at += 1
    return at
