"""Whether parsing a JSON text would hold up other requests. Pure.

The parser does not give way while it works, not even on a thread. Its work grows with the number of values; long
texts inside them are cheap.
"""

from __future__ import annotations

SMALL = 2**18  # bytes that parse in a few milliseconds, whatever they are
MOST_VALUES = 200_000
_SLICE = 2**20


def is_costly(data: bytes) -> bool:
    """Whether a text may hold more than MOST_VALUES values; commas and brackets inside texts count too."""
    if len(data) <= SMALL:
        return False
    found = 0
    for at in range(0, len(data), _SLICE):
        part = data[at : at + _SLICE]
        found += part.count(b",") + part.count(b"[") + part.count(b"{")
        if found > MOST_VALUES:
            return True
    return False
