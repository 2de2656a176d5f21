"""JSON text -> its values, and their places in the text. Pure."""

from __future__ import annotations

import json
from json.decoder import WHITESPACE, JSONDecodeError  # type: ignore[attr-defined]
from typing import Any, Literal

from proxy.errors import BadRequest

Span = tuple[int, int]

_BOM = "\ufeff"  # some clients write it before their JSON; providers read over it (RFC 8259, section 8.1)


def object_with_spans(text: str) -> tuple[dict[str, Any], dict[str, Span]]:
    """Parse a JSON object; returns its fields and the span of each value.

    Raises BadRequest for text that is not an object and for a repeated key: we and the provider might each use a
    different value. Raises ValueError (JSONDecodeError) or RecursionError for text that is not JSON.
    """
    fields: dict[str, Any] = {}
    spans: dict[str, Span] = {}
    at = _skip(text, len(_BOM) if text.startswith(_BOM) else 0)
    if text[at : at + 1] != "{":
        _DECODER.decode(text)  # raises JSONDecodeError for text that is not JSON
        raise BadRequest("The body of the request must be a JSON object.", code="invalid_type")
    at = _skip(text, at + 1)
    while text[at : at + 1] != "}":
        _expect(text, at, '"')
        key, at = _value(text, at)
        at = _skip(text, at)
        _expect(text, at, ":")
        at = _skip(text, at + 1)
        value, end = _value(text, at)
        if key in fields:
            raise BadRequest("A key occurs twice in the JSON object of the request.", code="duplicate_key")
        fields[key], spans[key] = value, (at, end)
        at = _skip(text, end)
        if _expect(text, at, ",}") == ",":
            at = _skip(text, at + 1)
            _expect(text, at, '"')
    if _skip(text, at + 1) != len(text):
        raise JSONDecodeError("Extra data", text, at + 1)
    return fields, spans


def element_spans(text: str, at: int) -> list[Span]:
    """The span of each element of the array that begins at `at`; the array must be valid JSON."""
    spans: list[Span] = []
    at = _skip(text, at + 1)
    while text[at] != "]":
        _, end = _value(text, at)
        spans.append((at, end))
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return spans


def _no_constant(name: str) -> Literal[0]:
    raise JSONDecodeError(f"{name} is not JSON", "", 0)


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def _skip(text: str, at: int) -> int:
    return int(WHITESPACE.match(text, at).end())


def _expect(text: str, at: int, allowed: str) -> str:
    found = text[at : at + 1]
    if not found or found not in allowed:
        raise JSONDecodeError(f"Expecting {' or '.join(allowed)}", text, at)
    return found


def _value(text: str, at: int) -> tuple[Any, int]:
    """The JSON value at `at`, and the index after it."""
    try:
        return _DECODER.scan_once(text, at)  # type: ignore[no-any-return, attr-defined]
    except StopIteration:
        raise JSONDecodeError("Expecting value", text, at) from None
