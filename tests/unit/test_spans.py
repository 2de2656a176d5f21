"""Excerpts of long messages."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversations.recall import spans
from conversations.recall.spans import BLOCK, LONGEST_HEADING, REACH, WHOLE, Scored, beginnings, best_span

SENTENCES = [f"Sentence number {i} says something about topic{i}, and nothing else at all. " for i in range(60)]
TEXT = "".join(SENTENCES)


def piece(first: int, last: int, cosine: float = 0.5) -> Scored:
    return Scored(len("".join(SENTENCES[:first])), len("".join(SENTENCES[:last]).rstrip()), cosine)


def shown(pieces: list[Scored], *stems: str) -> str:
    start, end = best_span(TEXT, pieces, beginnings(stems))
    return TEXT[start:end].strip()


def test_a_short_message_is_shown_whole() -> None:
    text = "One. Two. Three."
    assert best_span(text, [Scored(0, 4, 0.1), Scored(5, 9, 0.9)], []) == (0, len(text))
    assert best_span("x" * WHOLE, [], []) == (0, WHOLE)


def test_a_message_of_one_piece_is_shown_whole() -> None:
    assert best_span(TEXT, [Scored(0, len(TEXT), 0.1)], []) == (0, len(TEXT))


def test_the_best_piece_is_widened_by_two_sentences_on_each_side() -> None:
    pieces = [piece(0, 10), piece(10, 20, 0.9), piece(20, 30)]
    assert shown(pieces) == "".join(SENTENCES[8:22]).strip()


def test_a_piece_that_cuts_sentences_is_first_widened_to_whole_ones() -> None:
    start, end, _ = piece(10, 20)
    assert shown([piece(0, 10), Scored(start - 20, end + 20, 0.9)]) == "".join(SENTENCES[7:23]).strip()


def test_words_of_the_query_count_as_much_as_the_vector() -> None:
    pieces = [piece(0, 10, 0.5), piece(10, 20, 0.4), piece(20, 30, 0.5)]
    assert "topic15," in shown(pieces, "topic15")
    assert "topic2," in shown(pieces, "number")


def test_words_decide_without_vectors() -> None:
    assert "topic42" in shown([], "topic42")


def test_the_ends_of_the_text_are_borders_of_sentences() -> None:
    assert shown([piece(0, 10, 0.9), piece(10, 60)]).startswith("Sentence number 0 ")
    assert shown([piece(0, 50), piece(50, 60, 0.9)]).endswith(SENTENCES[-1].strip())


def test_text_without_sentences_is_shown_as_it_was_cut() -> None:
    assert best_span("x" * 5000, [Scored(0, 1000, 0.1), Scored(2000, 3000, 0.9)], []) == (2000, 3000)


def around(found: str, *, before: str, after: str) -> str:
    """What is shown of a long text if its best piece is `found`."""
    text = f"{TEXT[:1000]}\n\n{before}{found}{after}\n\n{TEXT[:1000]}"
    start = text.index(found)
    first, last = best_span(text, [Scored(0, 100, 0.1), Scored(start, start + len(found), 0.9)], [])
    return text[first:last]


CODE = "".join(f"line_{number} = call({number})\n" for number in range(20))
LIST = "".join(f"- Item {number} is one of the things to do.\n" for number in range(10))


def test_a_block_of_code_is_kept_whole() -> None:
    before, after = f"```python\n{CODE[:200]}", f"{CODE[200:]}```\n"
    assert f"{before}found = 1\n{after}" in around("found = 1\n", before=before, after=after)


def test_a_list_is_kept_whole_with_the_line_that_announces_it() -> None:
    before, after = f"Do this:\n\n{LIST[: 6 * 37]}", f"  - An item below it.\n\n{LIST[6 * 37 :]}"
    assert f"{before}- Found here.\n{after}" in around("- Found here.\n", before=before, after=after)


def test_long_lists_and_blocks_are_cut() -> None:
    for block in (LIST * 20, f"```\n{CODE * 20}```\n"):
        middle = len(block) // 2
        shown = around("- Found here.\n", before=block[:middle], after=block[middle:])
        assert len(shown) <= 2 * (REACH + BLOCK)


def test_text_is_shown_below_its_heading_and_without_the_next() -> None:
    shown = around("Found here. One more. Two more.\n", before="## Bees\n\n", after="\n## Wasps\n\nThey sting.\n\n")
    assert "## Bees\n\nFound here." in shown
    text = "One. Two. Three. Four. Five. Six.\n## Wasps\n" + "They sting. " * 100
    first, last = best_span(text, [Scored(0, 24, 0.9), Scored(200, 300, 0.1)], [])
    assert text[first:last] == "One. Two. Three. Four. Five. Six.\n"


@pytest.mark.parametrize("part", ["```\n", "- a\n", "- ", "**", ":\n", "#", " ", "1. ```\n"])
def test_marks_without_end_take_no_time(part: str) -> None:
    text = part * (200_000 // len(part))
    first, last = best_span(text, [Scored(0, 100, 0.1), Scored(100_000, 100_100, 0.9)], [])
    assert first <= 100_000 < 100_100 <= last


@given(st.text(min_size=1, max_size=3000), st.data())
def test_a_span_holds_its_piece_and_little_else(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    first, last = best_span(text, [Scored(start, end, 0.9), Scored(0, 1, 0.1)], [])
    if len(text) > WHOLE and (start, end) != (0, 1):
        assert 0 <= first <= start < end <= last <= len(text)
        assert start - first <= REACH + BLOCK + 2 * LONGEST_HEADING
        assert last - end <= REACH + BLOCK + 1


@given(st.text("abi ß\n", max_size=80), st.lists(st.text("abi1", min_size=1, max_size=6), min_size=1, max_size=4))
def test_shares_count_words_by_their_prefix(text: str, stems: list[str]) -> None:
    words = re.findall(r"\w+", text.casefold())

    def held(stem: str) -> bool:
        prefix = stem.removesuffix("i") if len(stem) > 3 else stem
        return any(word == stem or (stem.isalpha() and word.startswith(prefix)) for word in words)

    assert spans._share(text, spans.beginnings(stems)) == pytest.approx(sum(map(held, stems)) / len(stems))


def test_only_the_nearest_pieces_of_a_very_long_text_are_read() -> None:
    text = "".join(f"Sentence number {number:04}. " for number in range(2000))
    pieces = [Scored(at, at + 22, 0.9 if at == 2200 else 0.1) for at in range(0, 40_000, 22)]
    start, end = best_span(text, pieces, beginnings(["number"]))
    assert start <= 2200 and end >= 2222
