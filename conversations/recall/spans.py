"""Pure: which part of a long message to show.

A message is scored by small pieces but shown as a larger span, because a piece may end in the middle of a thought. The
best piece is widened to whole sentences, and by two more sentences on each side. A block of code or a list that this
would cut is shown whole, unless it is long, and text right below a heading with that heading.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

WHOLE = 600  # characters: a message up to this length is shown whole. About 128 tokens of English
MOST_PIECES = 50  # of a long text: the nearest pieces, which are also scored by words
LOOKED_AT = 200_000  # characters that are scored of a text without vectors
REACH = 300  # characters on each side that are searched for ends of sentences
SENTENCES = 3  # the one that the piece cuts, and two more: 92 % of spans then contain the answer; with one, 84 %
BLOCK = 500  # characters: a block of code or a list up to this length is not cut
LONGEST_HEADING = 120  # characters

# Ends of sentences and lines, in Latin and East Asian scripts.
_ENDS = re.compile(r"[.!?…][\"'”’)\]]*\s+|[。！？]|\n\s*")  # noqa: RUF001
_WORDS = re.compile(r"\w+")
_SPACED = {code: " " for code in range(128) if not _WORDS.match(chr(code))}  # what no word has, in ASCII
# Markdown.
_FENCE = re.compile(r"^ {0,3}```.*\n?", re.MULTILINE)
_LINE = re.compile(r".*\n?")
_ITEM = re.compile(r"\s*(?:[-*+•]|\d{1,3}[.)])\s+\S")
_HEADING = re.compile(r"\s*(?:#{1,6}\s.*|\*\*[^*]+\*\*|.*:)\s*")  # or a line that announces what follows
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
    start, end = _widened(text, best.start, best.end)
    start, end = _with_whole_blocks(text, start, end)
    return _below_its_heading(text, start), _before_a_heading(text, best.end, end)


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
    folded = text.casefold()
    # Both put a space before and after each word; the first is several times faster, for ASCII only.
    among = f" {folded.translate(_SPACED) if folded.isascii() else ' '.join(_WORDS.findall(folded))} "
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


def _with_whole_blocks(text: str, start: int, end: int) -> tuple[int, int]:
    """The span with all of each block of code and list that it cuts, if that is no longer than BLOCK."""
    around = text.rfind("\n", 0, max(0, start - BLOCK)) + 1, min(len(text), end + BLOCK)
    first, last = start, end
    for begins, ends in (*_code(text, *around), *_lists(text, *around)):
        if ends - begins <= BLOCK:
            first = min(first, begins) if begins < start < ends else first
            last = max(last, ends) if begins < end < ends else last
    return first, last


def _code(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The offsets of blocks of code between two offsets, with their fences."""
    fences = [*_FENCE.finditer(text, start, end)]
    if text.count("```", 0, start) % 2:  # the first one here ends a block
        del fences[:1]
    return ((opens.start(), closes.end()) for opens, closes in zip(fences[::2], fences[1::2], strict=False))


def _lists(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The offsets of lists between two offsets: lines that begin with a mark, and indented or empty ones between."""
    begins, ends = -1, -1
    for line in _LINE.finditer(text, start, end):
        words = line[0].strip()
        if _ITEM.match(line[0]) or (begins >= 0 and words and line[0][0] in " \t"):
            begins, ends = line.start() if begins < 0 else begins, line.end()
        elif words and begins >= 0:
            yield begins, ends
            begins = -1
    if begins >= 0:
        yield begins, ends


def _below_its_heading(text: str, start: int) -> int:
    """The start of the heading right above, if there is one."""
    above = text[max(0, start - 2 * LONGEST_HEADING) : start].rstrip()
    line = above[above.rfind("\n") + 1 :]
    is_heading = 0 < len(line) <= LONGEST_HEADING and _HEADING.fullmatch(line)
    return max(0, start - 2 * LONGEST_HEADING) + len(above) - len(line) if is_heading else start


def _before_a_heading(text: str, least: int, end: int) -> int:
    """The end without a last line that is a heading of what is not shown; `least` is the end of what must stay."""
    shown = text[least:end].rstrip()
    line = shown[shown.rfind("\n") + 1 :]
    is_heading = 0 < len(line) < len(shown) and end < len(text) and _HEADING.fullmatch(line)
    return least + len(shown) - len(line) if is_heading else end
