"""Which texts are equal to a reader."""

from __future__ import annotations

import pytest

from conversations.likeness import alike, spelled, without_thinking


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("a\nb", "a\r\nb"),
        ("a\nb", "a\rb"),
        ("Cafe\u0301", "Caf\u00e9"),
        ("10\u202fkm", "10 km"),
        ("10\u00a0km", "10 km"),
        ("x = 1  \ny", "x = 1\ny"),
        ("a\n\n\n\nb", "a\n\nb"),
        ("a\u200bb\ufeff", "ab"),
        ("  a\n", "a"),
    ],
)
def test_spellings_of_a_text_are_equal(text: str, same: str) -> None:
    assert spelled(text) == spelled(same)


@pytest.mark.parametrize("text", ["a\n\nb", "    indented\n  less", "a  b", "日本語\nです"])
def test_ordinary_text_is_unchanged(text: str) -> None:
    assert spelled(text) == text.strip()


def test_leading_thinking_is_not_part_of_an_answer() -> None:
    assert without_thinking("<think>\nHm.\n</think>\n\nYes.") == "Yes."
    assert without_thinking("Write <think>a</think> tags.") == "Write <think>a</think> tags."
    assert without_thinking("<think>never ends") == "<think>never ends"


@pytest.mark.parametrize(
    ("role", "stored", "resent"),
    [
        ("user", "### Task:\nAnswer.\n<context>x</context>\n\nHow often?", "How often?"),
        ("user", "How often do I turn it?", "<query>How often do I turn it?</query> Use the context."),
        ("assistant", "The whole long answer.", "The whole"),
        ("assistant", "The beginning", "The beginning and its continuation."),
        ("assistant", "<think>Hm.</think>Yes.", "Yes."),
        ("tool", "a\n b", "a b"),
    ],
)
def test_texts_that_a_client_changed_are_alike(role: str, stored: str, resent: str) -> None:
    assert alike(role, stored, resent)


@pytest.mark.parametrize(
    ("role", "stored", "resent"),
    [
        ("user", "Where is Rex?", "Where is Max?"),
        ("assistant", "The end of it", "of it"),
        ("tool", "12:00", "12:00 and more"),
        ("user", "anything", ""),
        ("user", "an icehouse stands", "ice"),
        ("user", "Where is Rex?", "Where is Rex? And Max?"),
    ],
)
def test_different_texts_are_not_alike(role: str, stored: str, resent: str) -> None:
    assert not alike(role, stored, resent)
