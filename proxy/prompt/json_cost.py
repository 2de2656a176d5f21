"""Whether parsing a JSON text would hold up other requests. Pure.

The parser does not give way while it works, not even on a thread. Its work grows with the values, the escapes inside
texts, and the digits of numbers; plain text is cheap. Counting them first takes small steps that do give way.
"""

from __future__ import annotations

from collections.abc import Iterator

SMALL = 2**18  # bytes that parse in a few milliseconds, whatever they are
MOST = 2_000_000  # units of some 20 ns: a digit is one, an escape is one, a value is VALUE
VALUE = 20
_SLICE = 2**16  # bytes at a time: a millisecond or two at worst
_SPACE = b" \t\r\n"


def is_costly(data: bytes) -> bool:
    """Whether a text takes more than some 50 ms to parse. Exact for valid JSON in UTF-8."""
    if len(data) <= SMALL:
        return False
    cost, inside = 0, False
    for part, escapes in _without_escapes(data):
        texts = part.split(b'"')
        outside = b"".join(texts[inside::2]).translate(None, _SPACE)
        inside ^= not len(texts) % 2
        values = outside.count(b",") + outside.count(b"[") + outside.count(b"{")
        cost += len(outside) + escapes + VALUE * values
        if cost > MOST:
            return True
    return False


def _without_escapes(data: bytes) -> Iterator[tuple[bytes, int]]:
    r"""The text in slices, without its escaped quotes and backslashes, and how many escapes each slice had."""
    open_escape = b""
    for at in range(0, len(data), _SLICE):
        part = open_escape + data[at : at + _SLICE]
        bare = part.replace(b"\\\\", b"")
        open_escape = b"\\" if bare.endswith(b"\\") else b""
        bare = bare.removesuffix(b"\\")
        escapes = (len(part) - len(bare)) // 2 + bare.count(b"\\")
        yield bare.replace(b'\\"', b""), escapes
