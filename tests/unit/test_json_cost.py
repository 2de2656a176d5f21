"""proxy/prompt/json_cost.py: what would hold up others is not parsed, and long texts are not mistaken for it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.answer.provider_error import error_line_of_body
from proxy.dialects.chat_completions.reply import decode_reply
from proxy.dialects.chat_completions.request import decode
from proxy.errors import BadRequest
from proxy.prompt import json_cost
from proxy.prompt.json_cost import MOST, VALUE, is_costly
from proxy.providers import model_name

COSTLY = {
    "numbers": b"[" + b"1," * 300_000 + b"1]",
    "brackets": b"[" * 300_000,
    "objects": b'[{"a":1},' * 100_000,
    "texts": b'["",' + b'"a",' * 300_000,
    "digits": b"[" + b"9" * 3_000_000,
    "escapes": b'["' + rb"\n" * 3_000_000,
    "backslashes": b'["' + rb"\\" * 3_000_000,
}
CHEAP = {
    "a long text": json.dumps({"text": "a, [b] {c} " * 500_000}).encode(),
    "a text of quotes": json.dumps({"text": '"quoted", ' * 100_000}).encode(),
    "a long history": json.dumps([{"role": "user", "content": "Hello, [you]"}] * 20_000, indent=4).encode(),
    "Chinese in escapes": json.dumps(["中文" * 250_000]).encode(),
}


@pytest.mark.parametrize("kind", COSTLY)
def test_many_values_digits_and_escapes_are_costly(kind: str) -> None:
    assert is_costly(COSTLY[kind])


@pytest.mark.parametrize("kind", CHEAP)
def test_long_texts_and_long_histories_are_not(kind: str) -> None:
    assert not is_costly(CHEAP[kind])


def test_a_costly_request_is_refused_and_a_costly_answer_is_not_read() -> None:
    with pytest.raises(BadRequest, match="too many values"):
        decode(b'{"messages": ' + COSTLY["numbers"] + b"}")
    assert decode_reply(COSTLY["objects"]).complete is False
    assert error_line_of_body(b'{"error": ' + COSTLY["brackets"]).startswith('{"error": [[[')


def test_the_model_of_a_costly_body_is_found_at_either_end() -> None:
    numbers = b'"input": ' + COSTLY["numbers"]
    for body in (b'{"model": "small", ' + numbers + b"}", b"{" + numbers + b', "model" : "small"}'):
        assert model_name.in_json(body) == "small"
    assert model_name.in_json(b"{" + numbers + b"}") == ""


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.sampled_from('a"\\,[{é\n\x00')),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.sampled_from('b"\\,')), inner),
)


@given(values, st.integers(1, 9), st.booleans())
def test_the_count_is_exact_wherever_the_slices_end(value: object, size: int, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_cost, "_SLICE", size)
        patch.setattr(json_cost, "SMALL", -1)
        patch.setattr(json_cost, "MOST", exact := _cost(text))
        assert not is_costly(text.encode())
        if exact:
            patch.setattr(json_cost, "MOST", exact - 1)
            assert is_costly(text.encode())


def _cost(text: str) -> int:
    cost, inside, at = 0, False, 0
    while at < len(text):
        if inside and text[at] == "\\":
            cost, at = cost + 1, at + 1
        elif text[at] == '"':
            inside = not inside
        elif not inside and not text[at].isspace():
            cost += 1 + VALUE * (text[at] in ",[{")
        at += 1
    return cost


def test_the_limit_is_far_above_real_requests() -> None:
    tools = [{"type": "function", "function": {"name": f"f{i}", "parameters": {"type": "object"}}} for i in range(500)]
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}] * 5_000
    body = json.dumps({"model": "gpt-4", "messages": turns, "tools": tools}).encode()
    assert len(body) > json_cost.SMALL
    assert _cost(body.decode()) < MOST / 2
