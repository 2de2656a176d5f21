"""proxy/dialects/responses: requests are forwarded as they came, streams add up, wherever they are cut."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversations.turns import Turn, digest, plain_text
from proxy.dialects.chat_completions.request import decode as decode_chat
from proxy.dialects.responses.dialect import RESPONSES, error_event
from proxy.dialects.responses.request import decode
from proxy.errors import BadRequest, ProviderUnreachable
from proxy.prompt.chat import ChatMessage
from tests.fake_provider import responses

ITEMS = [
    responses.thought("secret"),
    responses.message("Grüße, 👋! And more."),
    responses.call("get_weather", '{"city": "Paris"}', "call_1"),
    responses.call("get_time", "{}", "call_2"),
]
WHOLE = responses.response(ITEMS, id="resp_1")
STREAM = b"".join(responses.events(ITEMS, id="resp_1"))
LAST = b"event: response.completed"

values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
kinds = st.sampled_from(
    ["message", "reasoning", "function_call", "function_call_output", "item_reference", "new_thing"]
)
items = st.fixed_dictionaries(
    {"type": kinds},
    optional={
        "role": st.sampled_from(["user", "assistant", "system", "developer"]),
        "content": values,
        "output": values,
        "arguments": values,
        "call_id": st.text(max_size=5),
        "name": values,
    },
)


@given(given_items=st.lists(items, min_size=1, max_size=6), indent=st.none() | st.integers(0, 3))
def test_any_items_are_decoded_encoded_and_read(given_items: list[dict[str, Any]], indent: int | None) -> None:
    body = json.dumps({"model": "m", "input": given_items}, indent=indent).encode()
    chat = decode(body)
    assert chat.encode() == body
    again = chat.with_messages(chat.messages)
    assert json.loads(again.encode()) == json.loads(body)
    for message in chat.messages:
        assert json.loads(message.stored) == message.payload
        turn = Turn.from_payload(message.stored, message.payload)
        assert turn.role == message.role
        assert len(turn.digest) == 16


@given(text=st.text(min_size=1))
def test_a_text_becomes_a_message_only_where_something_is_added(text: str) -> None:
    body = json.dumps({"input": text, "model": "m"}).encode()
    chat = decode(body)
    assert chat.encode() == body
    assert chat.without_messages() == '{"input": "", "model": "m"}'
    added = ChatMessage.make({"role": "system", "content": "block"})
    changed = json.loads(chat.with_messages([added, *chat.messages]).encode())
    assert changed == {"input": [added.payload, {"role": "user", "content": text}], "model": "m"}


def test_a_request_without_input_has_no_messages_and_stays_as_it_is() -> None:
    body = b'{"prompt": {"id": "pmpt_1"}}'
    chat = decode(body)
    assert (chat.messages, chat.last_user, chat.in_tool_loop) == ((), None, False)
    assert chat.with_messages([]).encode() == body
    assert chat.without_messages() == body.decode()


@pytest.mark.parametrize("body", [b'{"input": {}}', b'{"input": [[]]}', b'{"input": [{"role": "\\n"}]}', b"nul"])
def test_what_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        decode(body)


def test_a_turn_has_one_digest_whichever_api_it_came_through() -> None:
    function = {"name": "get_weather", "arguments": '{"city":"Paris"}'}
    chat = decode_chat(
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": "Hi"},
                    {"role": "assistant", "content": "Look", "tool_calls": [{"id": "1", "function": function}]},
                    {"role": "tool", "tool_call_id": "1", "content": "Sunny"},
                ]
            }
        ).encode()
    )
    run = [responses.thought("x"), responses.message("Look"), responses.call("get_weather", '{"city": "Paris"}', "1")]
    output = {"type": "function_call_output", "call_id": "1", "output": "Sunny"}
    said = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}
    other = decode(json.dumps({"input": [said, *run, output]}).encode())
    assert [digest(m.payload) for m in chat.messages] == [digest(m.payload) for m in other.messages]


def test_the_sum_of_a_stream_is_the_response() -> None:
    copy = RESPONSES.copy()
    assert copy.feed(STREAM) + copy.held == STREAM
    assert copy.held.startswith(LAST)
    reply, whole = copy.reply(), RESPONSES.reply(json.dumps(WHOLE).encode())
    assert reply == whole
    assert reply.complete
    assert reply.id == "resp_1"
    assert reply.messages[0].payload["output"] == ITEMS


@pytest.mark.parametrize("stream", [STREAM, STREAM.replace(b"\n", b"\r\n")], ids=["LF", "CRLF"])
def test_a_stream_cut_at_any_byte_is_kept_as_far_as_it_came(stream: bytes) -> None:
    ends, said = stream.index(LAST), ""
    for at in range(0, len(stream) + 1):
        copy = RESPONSES.copy()
        first = copy.feed(stream[:at])
        assert stream.startswith(first)
        assert at - len(first) <= 96 or at > ends
        assert len(first) <= ends  # the last event is held back from its first byte
        if at % 7 == 0:
            assert first + copy.feed(stream[at:]) + copy.held == stream
            assert copy.done
            assert copy.reply().messages[0].payload["output"] == ITEMS
            continue
        copy.close()
        reply = copy.reply()
        text = plain_text(reply.messages[0].payload) if reply.messages else ""
        assert text.startswith(said)
        said = text
    assert said == "Grüße, 👋! And more."


def test_a_break_inside_the_last_event_is_reported_after_whole_events() -> None:
    error = ProviderUnreachable("The provider broke off.")
    for at in range(STREAM.index(LAST) + len(LAST) + 1, len(STREAM) - 2):
        copy = RESPONSES.copy()
        relayed = copy.feed(STREAM[:at])
        assert relayed + copy.fail(error) == STREAM[: STREAM.index(LAST)] + error_event(error)
        assert not copy.reply().complete


def test_a_last_event_without_a_line_of_its_type_is_held_back_too() -> None:
    stream = b"".join(line + b"\n" for line in STREAM.split(b"\n")[:-1] if not line.startswith(b"event:"))
    copy = RESPONSES.copy()
    relayed = b"".join(copy.feed(stream[at : at + 5]) for at in range(0, len(stream), 5))
    assert b"response.completed" not in relayed
    assert copy.reply().complete


def test_errors_and_failures_are_no_answers() -> None:
    failed = responses.response([], status="failed", error={"code": "server_error", "message": "Sorry."})
    for reply in (
        RESPONSES.reply(json.dumps(failed).encode()),
        RESPONSES.reply(b'{"error": {"message": "no"}}'),
        RESPONSES.reply(b"[]"),
        RESPONSES.reply(b"<html>"),
    ):
        assert not reply.complete
    copy = RESPONSES.copy()
    copy.feed(responses.event("response.created", {"response": WHOLE | {"status": "in_progress", "output": []}}))
    copy.feed(responses.event("error", {"code": "x", "message": "Sorry.", "param": None}))
    assert copy.reply().error == {"code": "x", "message": "Sorry.", "param": None}
    assert not copy.reply().complete


def test_an_answer_in_the_background_is_pending() -> None:
    queued = responses.response([], status="queued", background=True)
    assert RESPONSES.reply(json.dumps(queued).encode()).pending
    assert not RESPONSES.reply(json.dumps(WHOLE).encode()).pending


def test_a_message_of_the_model_is_one_turn_with_or_without_its_type() -> None:
    easy = {"role": "assistant", "content": "Hi."}
    typed = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi."}]}
    runs = [decode(json.dumps({"input": [item]}).encode()).messages[0] for item in (easy, typed)]
    assert {digest(run.payload) for run in runs} == {digest(easy)}
