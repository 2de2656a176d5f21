"""Pure: a text longer than the embedder reads well -> pieces of at most `limit` tokens.

A whole-message vector of a long text finds nothing in it, so a message is found by the best of its pieces.
They end at lines and sentences where that is possible, else between words, else anywhere.

Cost: every character is counted about twice, so time is linear in the length of the text; a megabyte takes up
to three seconds, whatever it holds. A megabyte of English is some 1,800 pieces, of base64 6,500, of Chinese 9,800, and
embedding them is what takes long (50 a second with the local model).
"""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

LIMIT = 128
BLOCK = 16_384
"""Characters counted at once, so that the tokenizer's memory is bounded: up to 200 bytes for each of them."""

FILL = 0.8
"""How full pieces are planned: tokens are spread unevenly, and a piece that is too long is cut in two."""

BORDERS = (
    (re.compile(r"\n\s*"), 1 / 4),
    (re.compile(r"[.!?…][\"'”’)\]]*\s+|[。！？]"), 1 / 2),  # noqa: RUF001, what ends sentences in East Asia
    (re.compile(r"\s+"), 1 / 2),
)
"""The best first, with how far it may lie from where a piece was planned to end, in lengths of a piece."""


class Piece(NamedTuple):
    start: int
    end: int


def split(text: str, count: Callable[[str], int], limit: int = LIMIT) -> list[Piece]:
    """Pieces in order, without the white space around them. They hold everything else."""
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
    """`parts` of about one length, their ends moved to borders."""
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
