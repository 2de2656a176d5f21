"""Pure: splits a text that is too long for the embedder into pieces of at most `limit` tokens.

One vector for a long message would match none of its details, so a message is found by the best of its pieces. Pieces
end at lines or sentences if possible, otherwise between words, otherwise anywhere.

Cost: every character is tokenized about twice, so time is linear in the length of the text. A megabyte of any text
takes up to three seconds. A megabyte of English makes some 1,800 pieces, of base64 6,500, of Chinese 9,800. Embedding
them takes most of the time (50 a second with the local model).
"""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

LIMIT = 128
BLOCK = 16_384
"""Characters tokenized at once. This bounds the tokenizer's memory, which is up to 200 bytes a character."""

FILL = 0.8
"""The planned size of a piece as a share of the limit. Tokens are unevenly spread, and a longer piece is cut in two."""

BORDERS = (
    (re.compile(r"\n\s*"), 1 / 4),
    (re.compile(r"[.!?…][\"'”’)\]]*\s+|[。！？]"), 1 / 2),  # noqa: RUF001, the ends of East Asian sentences
    (re.compile(r"\s+"), 1 / 2),
)
"""Borders, best first, with their greatest distance from the planned end of a piece, in lengths of a piece."""


class Piece(NamedTuple):
    start: int
    end: int


def split(text: str, count: Callable[[str], int], limit: int = LIMIT) -> list[Piece]:
    """The pieces in order; they cover all of the text but the white space between them."""
    blocks = max(1, -(-len(text) // BLOCK))
    return [
        piece for start, end in _cut(text, 0, len(text), blocks) for piece in _pieces(text, start, end, count, limit)
    ]


def _pieces(text: str, start: int, end: int, count: Callable[[str], int], limit: int) -> Iterator[Piece]:
    part = text[start:end]
    start += len(part) - len(part.lstrip())
    end -= len(part) - len(part.rstrip())
    if start >= end:
        return
    tokens = count(text[start:end])
    if tokens <= limit or end - start == 1:
        yield Piece(start, end)
        return
    parts = min(max(2, round(tokens / (FILL * limit))), end - start)
    for part_start, part_end in _cut(text, start, end, parts):
        yield from _pieces(text, part_start, part_end, count, limit)


def _cut(text: str, start: int, end: int, parts: int) -> Iterator[tuple[int, int]]:
    """`parts` spans of similar length, their ends moved to borders."""
    length = (end - start) / parts
    begin = start
    for number in range(1, parts):
        border = _border(text, start + round(number * length), length)
        yield begin, border
        begin = border
    yield begin, end


def _border(text: str, planned: int, length: float) -> int:
    for pattern, reach in BORDERS:
        far = int(reach * length)
        ends = [match.end() for match in pattern.finditer(text, planned - far, planned + far)]
        if ends:
            return min(ends, key=lambda end: abs(end - planned))
    return planned
