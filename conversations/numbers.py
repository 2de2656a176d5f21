"""Pure: numbers in text from outside: URLs, headers, forms, command lines."""

from __future__ import annotations

LARGEST = 10**18 - 1  # fits PostgreSQL's bigint


def whole_number(text: str | None, *, most: int = LARGEST) -> int | None:
    """The number that ASCII digits spell, from 0 to `most`; None for any other text, however long."""
    if not text or len(text) > len(str(LARGEST)) or not (text.isascii() and text.isdigit()):
        return None
    number = int(text)
    return number if number <= most else None
