"""Decompresses the copy of an answer whose provider compresses it although asked not to.

A few kilobytes can expand to gigabytes. The copy therefore stops at a total and at a ratio; the compressed bytes are
relayed all the same.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

STEP = 2**13  # bytes that are expanded at a time
MOST = 2**25  # bytes of a copy
MOST_TIMES = 100  # times the compressed bytes; real answers stay below 40
FREE = 2**20  # bytes that the ratio does not count


class Decoder:
    """`active` says that the provider's bytes are compressed, `stopped` that the copy has reached its limit."""

    def __init__(self, encoding: str) -> None:
        self.active = encoding not in ("", "identity")
        self.stopped = False
        self._zlib = zlib.decompressobj(zlib.MAX_WBITS | 32) if encoding in ("gzip", "x-gzip", "deflate") else None
        self._taken = self._made = 0  # bytes so far

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """The plain bytes in pieces of at most STEP bytes.

        None for an encoding that is not known, after damaged data and beyond the limits: no copy is kept then.
        """
        if not self.active:
            for at in range(0, len(data), STEP):
                yield data[at : at + STEP]
            return
        self._taken += len(data)
        while self._zlib is not None:
            try:
                piece = self._zlib.decompress(data, STEP)
            except zlib.error:
                self._zlib = None
                return
            self._made += len(piece)
            if self._made > min(MOST, FREE + MOST_TIMES * self._taken):
                self.stopped, self._zlib = True, None
                return
            if piece:
                yield piece
            data = self._zlib.unconsumed_tail
            if self._zlib.eof or (not data and len(piece) < STEP):
                return

    def feed(self, data: bytes) -> bytes:
        """All plain bytes at once: for a thread, not for the event loop."""
        return data if not self.active else b"".join(self.pieces(data))
