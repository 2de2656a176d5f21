"""Decompresses the copy of an answer that the provider compressed against our request."""

from __future__ import annotations

import zlib

PIECE_LIMIT = 2**25  # bytes that one piece may expand to


class Decoder:
    """`active` says that the provider's bytes are compressed."""

    def __init__(self, encoding: str) -> None:
        self.active = encoding not in ("", "identity")
        self._zlib = zlib.decompressobj(zlib.MAX_WBITS | 32) if encoding in ("gzip", "x-gzip", "deflate") else None

    def feed(self, data: bytes) -> bytes:
        """The plain bytes; empty for an unknown encoding and after damaged data: no copy is kept then."""
        if not self.active:
            return data
        if self._zlib is None:
            return b""
        try:
            return self._zlib.decompress(data, PIECE_LIMIT)
        except zlib.error:
            self._zlib = None
            return b""
