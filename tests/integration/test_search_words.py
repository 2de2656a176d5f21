"""Words of any script are found, by every way to search. Real PostgreSQL."""

from __future__ import annotations

import pytest

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
    ],
)
def test_words_of_any_script_and_length_match(words: str, found: int) -> None:
    assert [message.content for message in Message.objects.in_scope(SCOPE).matching(words)] == [TEXTS[found]]


@pytest.mark.parametrize("words", ["护照 -三文鱼", "杭州北湖", "鱼三", "-护照 护照", "护照 passport"])
def test_excluded_and_absent_words_do_not_match(words: str) -> None:
    assert TEXTS[0] not in Message.objects.in_scope(SCOPE).matching(words).values_list("content", flat=True)


@pytest.mark.parametrize("words", ["'", "护'照\\\\ | & !", "-", "-护", "\x00护照", "\ud800"])
def test_a_search_without_words_is_an_error(words: str) -> None:
    Message.objects.in_scope(SCOPE).matching(words).count()
