"""A payload is stored without its content, and comes back byte for byte."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from conversations.payloads import MARKS, SHORTEST, with_content, without_content

TEXTS = st.text(min_size=SHORTEST, max_size=300) | st.sampled_from(
    ["<b>&\u2028 'quoted' \"twice\" back\\slash\n\t\x00\x1f\x7f é 日本語 🦉 " * 3, "x" * 200, '","content":"' * 20]
)
SEPARATORS = st.sampled_from([(",", ":"), (", ", ": ")])


@given(TEXTS, st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3), st.booleans(), SEPARATORS)
def test_a_payload_is_stored_without_its_content(
    text: str, more: dict[str, str], escaped: bool, separators: tuple[str, str]
) -> None:
    payload = json.dumps({**more, "role": "user", "content": text}, ensure_ascii=escaped, separators=separators)
    stored = without_content(payload, text)
    assert with_content(stored, text) == payload
    assert len(stored) < len(payload) - len(text) + 1


@given(st.text(max_size=300), st.text(max_size=300))
def test_any_two_texts_come_back(payload: str, content: str) -> None:
    stored = without_content(payload, content)
    if not set(MARKS) & set(payload):  # JSON text has none of them
        assert with_content(stored, content) == payload


def test_parts_and_the_spelling_of_go_are_recognised() -> None:
    text = "Use <b> & </b> here. " * 10
    parts = json.dumps({"role": "user", "content": [{"type": "text", "text": text}, {"type": "image_url"}]})
    go = json.dumps({"role": "assistant", "content": text}).replace("<", "\\u003c").replace(">", "\\u003e")
    go = go.replace("&", "\\u0026")
    for payload in (parts, go):
        stored = without_content(payload, text)
        assert len(stored) < 90
        assert with_content(stored, text) == payload
        assert json.loads(payload)


def test_the_usual_payload_takes_three_bytes() -> None:
    for role in ("user", "assistant"):
        for separators in ((",", ":"), (", ", ": ")):
            payload = json.dumps({"role": role, "content": "x" * SHORTEST}, separators=separators)
            stored = without_content(payload, "x" * SHORTEST)
            assert len(stored) == 3
            assert with_content(stored, "x" * SHORTEST) == payload


def test_a_content_at_the_very_beginning_comes_back() -> None:
    text = "y" * SHORTEST
    assert with_content(without_content(json.dumps(text), text), text) == json.dumps(text)


def test_short_contents_stay() -> None:
    payload = '{"role": "user", "content": "short"}'
    assert without_content(payload, "short") == payload
