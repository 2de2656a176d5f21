"""Pure: the access keys that a request brings, taken out of its headers so that no provider ever sees one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from access.key_format import holds_key
from proxy.upstream import Headers

OURS = b"x-reservoir-key"
SHARED = (b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key")  # a provider's key may stand there as well
BEGINNING = "rsv_"


class Presented(NamedTuple):
    """The headers without keys, and the different texts presented as keys, valid or not."""

    headers: Headers
    keys: frozenset[str]


def take_out(headers: Iterable[tuple[bytes, bytes]]) -> Presented:
    """Separate the keys from the other headers. A key in any other header is dropped, and does not count."""
    kept: Headers = []
    keys = set()
    for name, value in headers:
        low = name.lower()
        if low == OURS:
            keys.add(value.decode("latin-1").strip())
        elif b"rsv_" not in value:
            kept.append((name, value))
        elif low in SHARED and (key := _credential(value)).startswith(BEGINNING):
            keys.add(key)
        elif not holds_key(value):
            kept.append((name, value))
    return Presented(kept, frozenset(keys))


def _credential(value: bytes) -> str:
    """`Bearer <credential>`, the scheme in any case, or the credential alone."""
    words = value.decode("latin-1").split(None, 1)
    return words[1].strip() if len(words) == 2 and words[0].lower() == "bearer" else " ".join(words)
