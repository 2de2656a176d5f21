import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversations.embedders.pieces import Piece, split


def words(text: str) -> int:
    return len(text.split())


def characters(text: str) -> int:
    return len(text)


def texts(text: str, pieces: list[Piece]) -> list[str]:
    return [text[piece.start : piece.end] for piece in pieces]


def test_a_text_that_fits_is_one_piece() -> None:
    assert split("One. Two.\nThree.", words, 3) == [Piece(0, 16)]


def test_pieces_have_no_surrounding_white_space() -> None:
    assert split("  \n one two \t", words) == [Piece(4, 11)]


@pytest.mark.parametrize("text", ["", " ", "\n\t \u3000" * 100])
def test_white_space_alone_has_no_pieces(text: str) -> None:
    assert split(text, words) == []


def test_a_long_text_is_cut_between_sentences() -> None:
    sentences = [f"Sentence {number} has exactly seven words here." for number in range(20)]
    text = " ".join(sentences)
    pieces = texts(text, split(text, words, 16))
    assert " ".join(pieces) == text
    assert all(piece.startswith("Sentence") and piece.endswith("here.") for piece in pieces)


def test_lines_are_preferred_to_sentences_as_borders() -> None:
    text = "one two. three four. five six\nseven. eight nine ten eleven"
    assert texts(text, split(text, words, 7))[0].endswith("six")


def test_a_sentence_that_is_too_long_is_cut_between_words() -> None:
    text = " ".join(f"word{number}" for number in range(100))
    pieces = texts(text, split(text, words, 10))
    assert [word for piece in pieces for word in piece.split()] == text.split()


def test_a_word_that_is_too_long_is_cut_anywhere() -> None:
    pieces = texts("x" * 1000, split("x" * 1000, characters, 128))
    assert "".join(pieces) == "x" * 1000
    assert all(len(piece) <= 128 for piece in pieces)


def test_a_character_over_the_limit_is_its_own_piece() -> None:
    assert split("ab", lambda text: 500 * len(text), 128) == [Piece(0, 1), Piece(1, 2)]


def test_pieces_of_a_long_text_are_more_than_half_full_on_average() -> None:
    text = " ".join("word" if number % 9 else "end." for number in range(20_000))
    pieces = split(text, words, 128)
    assert len(pieces) < 2 * 20_000 / 128


@given(
    st.text(st.sampled_from("ab .!\n\u3000。\ud800\x00😀"), max_size=300),
    st.integers(1, 12),
    st.sampled_from([words, characters]),
)
def test_pieces_are_short_enough_in_order_and_lose_nothing(text: str, limit: int, count: object) -> None:
    assert callable(count)
    pieces = split(text, count, limit)
    covered: set[int] = set()
    end = 0
    for piece in pieces:
        assert end <= piece.start < piece.end <= len(text)
        assert count(text[piece.start : piece.end]) <= limit or piece.end - piece.start == 1
        covered.update(range(piece.start, piece.end))
        end = piece.end
    assert all(text[index].isspace() for index in range(len(text)) if index not in covered)


@pytest.mark.parametrize("unit", ["x", "x ", "x.", "Short. ", "x\n", "!", ".'", " " * 50 + "x", "。"])
def test_characters_of_a_megabyte_are_counted_only_a_few_times(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    counted = 0
    longest = 0

    def count(part: str) -> int:
        nonlocal counted, longest
        counted += len(part)
        longest = max(longest, len(part))
        return len(part)

    started = time.process_time()
    pieces = split(text, count, 128)
    assert counted <= 4 * len(text)
    assert longest <= 40_000
    assert len(pieces) < 4 * len(text) / 128
    assert time.process_time() - started < 10
