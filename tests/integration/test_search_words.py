"""Words of any script are found, by every way to search. Real PostgreSQL."""

from __future__ import annotations

import pytest
from django.db import connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conversations.lexemes import STORED, indexed_text
from conversations.models import Message
from conversations.querysets import Scope
from tests.integration.test_capture import ask, user

pytestmark = pytest.mark.django_db

SCOPE = Scope("tests", "words")
TEXTS = (
    "我的护照号码是E12345678。我住在杭州西湖边。最喜欢吃三文鱼。",
    "日本語のメモ、駐車場は地下二階です。",
    "ที่จอดรถอยู่ชั้นใต้ดิน",
    "The passport lies in the blue drawer.",
    "Blue paint, half-baked, is for the drawer of the desk, and the desk is by 窗户 the door.",
)


@pytest.fixture(autouse=True)
def _said() -> None:
    for text in TEXTS:
        ask([user(text)], SCOPE)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("护照", 0),
        ("护照号码", 0),
        ("杭州西湖", 0),
        ("三文鱼", 0),
        ("鱼", 0),
        ("护照 三文鱼", 0),
        ("护照 E12345678", 0),
        ("駐車場", 1),
        ("地下二階", 1),
        ("メモ", 1),
        ("メ", 1),
        ("ที่จอดรถ", 2),
        ("ใต้ดิน", 2),
        ("passports", 3),
        ('"blue drawer"', 3),
        ('passport "blue drawer" -"drawer blue"', 3),
        ('"the drawer of the desk"', 4),
        ('"blue paint" -"blue drawer"', 4),
        ('-"blue drawer" desk', 4),
        ("half-baked", 4),
        ('"desk in on a door"', 4),
        ('窗户 "desk is by the door"', 4),
    ],
)
def test_words_of_any_script_and_length_match(words: str, found: int) -> None:
    assert [message.content for message in Message.objects.in_scope(SCOPE).matching(words)] == [TEXTS[found]]


@pytest.mark.parametrize(
    "words", ["护照 -三文鱼", "杭州北湖", "鱼三", "-护照 护照", "护照 passport", '"E12345678 passport"']
)
def test_excluded_and_absent_words_do_not_match(words: str) -> None:
    assert TEXTS[0] not in Message.objects.in_scope(SCOPE).matching(words).values_list("content", flat=True)


@pytest.mark.parametrize("words", ["'", "护'照\\\\ | & !", "-", "-护", "\x00护照", "\ud800"])
def test_a_search_without_words_is_an_error(words: str) -> None:
    Message.objects.in_scope(SCOPE).matching(words).count()


@pytest.mark.parametrize("words", ['"drawer blue"', '"passport drawer"', '"blue drawer" -passport', "baked-half"])
def test_words_in_another_order_or_apart_do_not_match_a_phrase(words: str) -> None:
    assert not Message.objects.in_scope(SCOPE).matching(words).exists()


def test_a_phrase_that_is_excluded_leaves_all_other_messages() -> None:
    found = Message.objects.in_scope(SCOPE).matching('-"blue drawer"').values_list("content", flat=True)
    assert sorted(found) == sorted(text for text in TEXTS if "blue drawer" not in text)


def test_places_are_stored_of_words_that_occur_again() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT word.lexeme, word.positions FROM conversations_message m, unnest(m.lexemes) word "
            "WHERE m.content = %s AND word.positions IS NOT NULL",
            [TEXTS[4]],
        )
        assert cursor.fetchall() == [("desk", [12, 15])]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["tree", "house", "violin", "我有", "the", "of", "o'neill"]), max_size=300))
def test_words_without_places_count_as_those_with(words: list[str]) -> None:
    spaced, pairs = indexed_text("", " ".join(words))
    whole = "to_tsvector('english', %(spaced)s) || (%(pairs)s)::tsvector"
    rank = "ts_rank('{1,1,1,1}', {}, %(query)s::tsquery)"
    with connection.cursor() as cursor:
        for query in ("'tree'", "'hous'", "'violin'", "'我有'"):
            values = {"spaced": spaced, "pairs": pairs, "query": query}
            cursor.execute(
                f"SELECT {rank.replace('{}', whole)}, {rank.replace('{}', STORED.format(vector=whole))}", values
            )
            complete, stored_ = cursor.fetchone()
            assert complete == stored_
