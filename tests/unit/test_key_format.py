"""How an access key is written, and what is taken for one."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from access.key_format import ALPHABET, PATTERN, holds_key, make, parse


@given(st.integers())
def test_a_key_is_one_word_that_parses_to_itself(_: int) -> None:
    key = make("app")
    assert re.fullmatch(r"\w+", key.text)
    assert re.fullmatch(PATTERN, key.text)
    assert parse(key.text) == key
    assert key.public_id in key.text


def test_no_two_keys_are_alike_and_a_rotation_keeps_the_public_id() -> None:
    keys = {make("app") for _ in range(100)}
    assert len({key.text for key in keys}) == len({key.public_id for key in keys}) == 100
    one = make("app")
    other = make("app", one.public_id)
    assert other.public_id == one.public_id
    assert other.text != one.text


@given(st.data())
def test_one_wrong_character_is_refused(data: st.DataObject) -> None:
    text = make("app").text
    at = data.draw(st.integers(8, len(text) - 1))
    wrong = data.draw(st.sampled_from(ALPHABET + "_-. ü").filter(lambda one: one != text[at]))
    assert parse(text[:at] + wrong + text[at + 1 :]) is None


@given(st.text())
def test_nothing_else_is_a_key(text: str) -> None:
    assert parse(text) is None


@pytest.mark.parametrize("form", ["{}", "Bearer {}", "a={};b", '{{"key": "{}"}}', "x{}x"])
def test_a_key_is_found_in_any_surroundings(form: str) -> None:
    assert holds_key(form.format(make("ops").text).encode())
    assert not holds_key(form.format("rsv_app_short").encode())
