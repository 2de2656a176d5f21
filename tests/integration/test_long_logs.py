"""Long texts are found by their words. Real PostgreSQL."""

from __future__ import annotations

import pytest

from conversations.lexemes import INDEXED_CHARACTERS
from conversations.models import Message
from conversations.querysets import Scope
from tests.integration.test_capture import ask, user

pytestmark = pytest.mark.django_db

SCOPE = Scope("tests", "logs")


def test_a_sentence_far_down_a_pasted_log_is_found_by_its_words() -> None:
    log = "".join(f"2026-11-25 12:00:00 INFO worker-{number} did some work\n" for number in range(3500))
    ask([user(f"{log[:150_000]} The valve near Tromsoe is stuck. {log[150_000:]}")], SCOPE)
    assert Message.objects.in_scope(SCOPE).matching("valve Tromsoe").count() == 1


@pytest.mark.parametrize("word", ["{} ", "\u0431{} ", "\u0915{} ", "\U00010400{} ", "{}\U00010400\U00010401 "])
def test_the_most_words_that_are_indexed_fit_postgresql(word: str) -> None:
    text = "".join(word.format(number) for number in range(60_000))
    ask([user(text[:INDEXED_CHARACTERS])], SCOPE)
    assert Message.objects.in_scope(SCOPE).count() == 1


def test_short_words_of_every_letter_fit_postgresql() -> None:
    text = " ".join(chr(0x900 + one) + chr(0x900 + two) for one in range(1, 250) for two in range(1, 250))
    ask([user(text)], SCOPE)
    assert Message.objects.in_scope(SCOPE).count() == 1
