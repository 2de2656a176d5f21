"""The data of one event of a stream -> its JSON. Pure."""

from __future__ import annotations

import json
import math
from typing import Any

from proxy.prompt.json_cost import is_costly


def decoded(data: bytes) -> Any:
    """The JSON value in the data; None for anything else, and for what is too costly to parse."""
    if is_costly(data):
        return None
    try:
        return _DECODER.decode(data.decode(errors="replace"))
    except (ValueError, RecursionError):
        return None


def text_of(pieces: str) -> str:
    """Joins the two halves of a character that was split into two escapes, each in an event of its own."""
    try:
        pieces.encode()
    except UnicodeEncodeError:
        return pieces.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return pieces


def _finite(number: str) -> float | None:
    value = float(number)
    return value if math.isfinite(value) else None


# Python reads NaN, Infinity and 1e999; JSON and PostgreSQL do not have them.
_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=lambda _: None)
