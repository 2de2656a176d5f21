"""Files in the middle of a text."""

from __future__ import annotations

import base64
import random

import pytest

from conversations.binary import without_files
from conversations.turns import digest, plain_text

FILE = base64.b64encode(random.Random(7).randbytes(3000)).decode()


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (
            f"Here is ![chart](data:image/png;base64,{FILE}) of Lisbon.",
            "Here is ![chart]([image/png left out]) of Lisbon.",
        ),
        (f"data:text/plain;charset=utf-8;base64,{FILE}", "[text/plain left out]"),
        (f"data:;base64,{FILE} after", "[file left out] after"),
        (f"before {FILE} after", "before [file left out] after"),
        (
            "a key:\n" + "\n".join(FILE[at : at + 76] for at in range(0, 1976, 76)) + "\nend",
            "a key:\n[file left out]\nend",
        ),
    ],
)
def test_a_file_is_replaced_by_a_note(text: str, left: str) -> None:
    assert without_files(text) == left


@pytest.mark.parametrize("text", ["x" * 5000, "ab" * 400, "word " * 500, "the data: url, base64," * 50, "a\n" * 500])
def test_words_are_kept(text: str) -> None:
    assert without_files(text) == text


def test_different_files_with_the_same_words_are_two_turns() -> None:
    one, two = ({"role": "user", "content": f"Look: data:image/png;base64,{FILE[at:]}"} for at in (0, 4))
    assert plain_text(one) == plain_text(two) == "Look: [image/png left out]"
    assert digest(one) != digest(two)


def test_a_bare_string_among_parts_is_text() -> None:
    assert plain_text({"role": "user", "content": ["one", {"type": "text", "text": "two"}, 3, None]}) == "one\ntwo"
