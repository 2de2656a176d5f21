"""Pure: which part of a long message to show.

A message is scored by small pieces but shown as a larger span, because a piece may end in the middle of a thought. The
best piece is widened to whole sentences, and by two more sentences on each side.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

WHOLE = 600  # characters: a message up to this length is shown whole. About 128 tokens of English
MOST_PIECES = 50  # of a long text: the nearest pieces, which are also scored by words
LOOKED_AT = 200_000  # characters that are scored of a text without vectors
REACH = 300  # characters on each side that are searched for ends of sentences
SENTENCES = 3  # the one that the piece cuts, and two more: 92 % of spans then contain the answer; with one, 84 %

# Ends of sentences and lines, in Latin and East Asian scripts.
_ENDS = re.compile(r"[.!?…][\"'”’)\]]*\s+|[。！？]|\n\s*")  # noqa: RUF001
_WORDS = re.compile(r"\w+")
_SHORTEST_STEM = 3


class Scored(NamedTuple):
    """A piece of a text, by offsets, and its cosine with the query."""

    start: int
    end: int
    cosine: float


def excerpt(text: str, start: int, end: int) -> str:
    """A part of a text as it is shown, with dots where something is left out."""
    before = "… " if start > 0 else ""
    after = " …" if end < len(text) else ""
    return f"{before}{text[start:end].strip()}{after}"


def best_span(text: str, pieces: Sequence[Scored], words: Collection[str]) -> tuple[int, int]:
    """The offsets of what to show: the best piece, widened; or all of a short text.

    A piece's score is its cosine plus the share of the query's words that it contains; `words` are their beginnings().
    """
    if len(text) <= WHOLE or len(pieces) == 1:
        return 0, len(text)
    near = pieces or _equal_parts(text[:LOOKED_AT])
    if len(pieces) > MOST_PIECES:
        near = sorted(pieces, key=lambda piece: -piece.cosine)[:MOST_PIECES]
    best = max(near, key=lambda p: p.cosine + _share(text[p.start : p.end], words))
    return _widened(text, best.start, best.end)


def _equal_parts(text: str) -> list[Scored]:
    """Pieces for a text without vectors."""
    return [Scored(start, min(start + WHOLE, len(text)), 0.0) for start in range(0, len(text), WHOLE)]


def beginnings(stems: Collection[str]) -> list[str]:
    """For each stem, what a space-separated list of words contains if one of them has the stem."""
    # "happi" is the stem of "happy"; but "topic1" is not the stem of "topic15".
    return [
        f" {stem.removesuffix('i') if len(stem) > _SHORTEST_STEM else stem}" if stem.isalpha() else f" {stem} "
        for stem in stems
    ]


def _share(text: str, words: Collection[str]) -> float:
    """The share of these beginnings of words that the text has."""
    if not words:
        return 0.0
    among = f" {' '.join(_WORDS.findall(text.casefold()))} "
    return sum([word in among for word in words]) / len(words)


def _widened(text: str, start: int, end: int) -> tuple[int, int]:
    before = [match.end() for match in _ENDS.finditer(text, max(0, start - REACH), start)]
    begins = [0, *before] if start <= REACH else before
    # Search from the piece's last character, which may end a sentence.
    after = [match.end() for match in _ENDS.finditer(text, end - 1, min(len(text), end + REACH)) if match.end() >= end]
    ends = [*after, len(text)] if len(text) - end <= REACH else after
    start = begins[-min(SENTENCES, len(begins))] if begins else start
    end = ends[min(SENTENCES, len(ends)) - 1] if ends else end
    return start, end
