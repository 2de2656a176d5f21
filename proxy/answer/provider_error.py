"""A provider's error, in any form -> one line. Pure.

OpenAI sends `{"error": {"message", "type", "code"}}`; Gemini a list of these; vLLM `{"object": "error", "message"}`;
FastAPI `{"detail": ...}`; a gateway in front of them a page of HTML.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from proxy.prompt.json_cost import is_costly

LONGEST = 500  # characters that are kept
_READ = 16 * LONGEST  # characters of a page that are looked at
_MARKUP = re.compile(r"<(script|style)\b.{0,5000}?</\1\s*>|<[^<>]{0,1000}>", re.DOTALL | re.IGNORECASE)


def error_line(error: Any) -> str:
    """A provider's error object as one line of at most LONGEST characters."""
    return _one_line(_words(error))


def error_line_of_body(body: bytes) -> str:
    """An answer's body that is not a chat completion, as one line of at most LONGEST characters."""
    text = body[: 4 * _READ].decode(errors="replace")
    try:
        fields = None if is_costly(body) else json.loads(body)
    except (ValueError, RecursionError):
        return _one_line(_MARKUP.sub(" ", text[:_READ]))
    return _one_line(_words(fields)) or _one_line(text)


def redacted(text: str, secrets: Iterable[str]) -> str:
    """The text with dots for each secret: a provider may echo the key that it refuses."""
    for secret in secrets:
        if len(secret) >= 8:
            text = text.replace(secret, "…")
    return text


def _words(error: Any) -> str:
    match error:
        case str():
            return error
        case [first, *_]:
            return _words(first)
        case {"error": inner} if inner:
            return _words(inner)
        case {"detail": inner} if inner:
            return _words(inner)
        case {"message": str() as message}:
            kind = error.get("code") or error.get("type")
            return f"{kind}: {message}" if isinstance(kind, str | int) and kind else message
        case {"msg": str() as message}:
            place = error.get("loc")
            return f"{'.'.join(map(str, place))}: {message}" if isinstance(place, list) else message
        case {"message": inner} if inner:
            return _words(inner)
        case dict():
            return json.dumps(error)[:LONGEST] if error else ""
        case None:
            return ""
        case _:
            return str(error)


def _one_line(text: str) -> str:
    return " ".join(text[: 4 * LONGEST].split())[:LONGEST]
