"""What holds in every dialect, for wild requests and wild streams."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.dialects.dialect import Dialect
from proxy.dialects.known import DIALECTS
from proxy.errors import BadRequest
from tests.fake_provider import messages, responses

each = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)

EVENTS = [
    *responses.events([responses.thought("x"), responses.message("Two words"), responses.call("f", "{}", "c")]),
    *messages.events([messages.thinking("Hm", "s"), messages.text("Two words"), messages.tool_use("f", {}, "t")]),
]

KEYS = ["role", "content", "type", "text", "output", "input", "id", "index", "delta", "item", "response", "error"]
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(-1, 1)
    | st.sampled_from(["user", "text", "message", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=10,
)
bodies = st.fixed_dictionaries(
    {}, optional={"model": values, "messages": values, "input": values, "system": values, "instructions": values}
)


@each
@given(
    body=st.binary()
    | bodies.map(lambda fields: json.dumps(fields, indent=1).encode())
    | bodies.map(lambda fields: json.dumps(fields).encode()[:-2])
)
@example(body=b'{"input": [{"role": "user"}]')
@example(body=b'{"messages": [{"role": "user", "content": "\\ud800"}], "input": "\\u0000"}')
def test_any_bytes_are_either_a_request_or_refused(dialect: Dialect, body: bytes) -> None:
    try:
        chat = dialect.decode(body)
    except BadRequest as refusal:
        assert json.loads(dialect.error(refusal))["error"]["message"]
    else:
        assert chat.encode() == body
        assert chat.dialect == dialect.name
        assert all(isinstance(text, str) for text in chat.instructions)


wild = st.builds(
    lambda kind, value: f"event: {kind}\ndata: {json.dumps(value)}\n\n".encode(),
    st.sampled_from(["response.completed", "message_stop", "message_delta", "error", "odd"]),
    values,
)
streams = st.lists(st.binary(max_size=8) | st.sampled_from(EVENTS) | wild, max_size=12).map(b"".join)


@each
@given(stream=streams, cuts=st.lists(st.integers(0, 3_000), max_size=8))
def test_the_copy_of_a_stream_loses_and_reorders_no_byte(dialect: Dialect, stream: bytes, cuts: list[int]) -> None:
    copy = dialect.copy()
    ends = sorted({*cuts, len(stream)})
    given_out = b""
    for start, end in zip([0, *ends], ends, strict=False):
        given_out += copy.feed(stream[start:end])
        assert given_out + copy.held == stream[: min(end, len(stream))]
    copy.close()
    assert given_out + copy.held == stream
    for message in copy.reply().messages:
        assert json.loads(message.stored, parse_constant=pytest.fail)


@each
@given(fields=st.fixed_dictionaries({}, optional=dict.fromkeys(["choices", "output", "content", "status"], values)))
def test_any_body_of_an_answer_is_read(dialect: Dialect, fields: dict[str, Any]) -> None:
    for message in dialect.reply(json.dumps(fields).encode()).messages:
        assert message.role
        assert json.loads(message.stored)
