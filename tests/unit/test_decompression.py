"""proxy/answer/decompression.py: small inputs that expand to much."""

from __future__ import annotations

import gzip
import json
import zlib

import pytest

from proxy.answer.decompression import FREE, MOST_TIMES, STEP, Decoder

TEXT = json.dumps({"words": [f"word {number}" for number in range(20_000)]}).encode()


@pytest.mark.parametrize("packed", [gzip.compress(TEXT), zlib.compress(TEXT)])
@pytest.mark.parametrize("size", [1, 1000, 10**7])
def test_the_plain_bytes_come_in_small_pieces(packed: bytes, size: int) -> None:
    decoder = Decoder("gzip")
    pieces = [piece for at in range(0, len(packed), size) for piece in decoder.pieces(packed[at : at + size])]
    assert b"".join(pieces) == TEXT
    assert max(map(len, pieces)) <= STEP


def test_a_bomb_stops_the_copy_and_no_later_byte_is_expanded() -> None:
    bomb = gzip.compress(b"\n" * 64_000_000)
    decoder = Decoder("gzip")
    plain = sum(len(piece) for piece in decoder.pieces(bomb))
    assert plain <= FREE + MOST_TIMES * len(bomb)
    assert decoder.stopped
    assert list(decoder.pieces(bomb)) == []


def test_damaged_and_unknown_data_expand_to_nothing() -> None:
    assert Decoder("gzip").feed(b"not gzip") == Decoder("br").feed(TEXT) == b""
    assert Decoder("").feed(TEXT) == TEXT
