"""How text is prepared for PostgreSQL's text search."""

from __future__ import annotations

import pytest

from conversations.lexemes import INDEXED_CHARACTERS, INDEXED_WITHOUT_SPACES, as_query, asks, split_by_script


def test_english_is_tokenized_by_postgresql() -> None:
    assert split_by_script("Caroline: I painted it!") == ("Caroline: I painted it!", "")


def test_chinese_becomes_characters_and_pairs() -> None:
    spaced, pairs = split_by_script("我有一只猫 named Mimi")
    assert spaced.split() == ["named", "Mimi"]
    assert pairs == "'我':1 '我有':2 '有':3 '有一':4 '一':5 '一只':6 '只':7 '只猫':8 '猫':9"


def test_scripts_whose_characters_are_not_words_become_pairs_only() -> None:
    assert split_by_script("ラーメン")[1] == "'ラー':1 'ーメ':2 'メン':3"
    assert split_by_script("แมว")[1] == "'แม':1 'มว':2"


def test_a_repeated_pair_is_one_lexeme_with_two_positions() -> None:
    assert split_by_script("ハハハ")[1] == "'ハハ':1,2"


def test_long_texts_are_cut() -> None:
    assert len(split_by_script("a" * 200_000)[0]) == INDEXED_CHARACTERS
    assert split_by_script("ハ" * 200_000)[1].count(",") == INDEXED_WITHOUT_SPACES - 2


@pytest.mark.parametrize(
    ("lexeme", "query"),
    [("cat", "'cat'"), ("o'neill", "'o''neill'"), ("a\\b", "'a\\\\b'"), ("a & !b:*", "'a & !b:*'")],
)
def test_a_lexeme_is_never_read_as_query_syntax(lexeme: str, query: str) -> None:
    assert as_query(lexeme) == query


@pytest.mark.parametrize("text", ["Are you there?", "Are you there? \n", "你在吗？", "أين أنت؟"])  # noqa: RUF001
def test_questions_become_queries(text: str) -> None:
    assert asks(text)


@pytest.mark.parametrize("text", ["", "I am here.", "Why? Because.", "long " * 200 + "Shall I go on?"])
def test_empty_questions_become_no_query(text: str) -> None:
    assert not asks(text)
