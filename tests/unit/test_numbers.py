"""Numbers in text from outside."""

from __future__ import annotations

import pytest

from conversations.numbers import LARGEST, whole_number


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("7", 7), ("007", 7), ("100", 100), (str(LARGEST), LARGEST)])
def test_ascii_digits_are_a_number(text: str, number: int) -> None:
    assert whole_number(text) == number


@pytest.mark.parametrize(
    "text", [None, "", " 1", "-1", "+1", "1.5", "1e3", "1_000", "²", "\u0661", "x", "9" * 19, "9" * 5000]
)
def test_other_text_is_not_a_number(text: str | None) -> None:
    assert whole_number(text) is None


def test_numbers_above_the_limit_are_refused() -> None:
    assert whole_number("10", most=10) == 10
    assert whole_number("11", most=10) is None
