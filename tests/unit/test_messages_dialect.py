"""proxy/dialects/messages: requests are forwarded as they came, streams add up, wherever they are cut."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversations.tool_marks import without_marked
from conversations.turns import Turn, digest, plain_text
from proxy.dialects.chat_completions.request import decode as decode_chat
from proxy.dialects.known import refusal
from proxy.dialects.messages.dialect import MESSAGES, error_event
from proxy.dialects.messages.request import decode
from proxy.errors import BadRequest, ProviderUnreachable
from proxy.prompt.enrichment import splice
from tests.fake_provider import messages

CONTENT = [
    messages.thinking("Let me see.", "c2ln"),
    messages.text("Grüße, 👋! And more."),
    messages.tool_use("get_weather", {"city": "Paris", "days": [1, 2.5, None]}, "toolu_1"),
]
STREAM = b"".join(messages.events(CONTENT))
LAST = b"event: message_stop"

values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
kinds = st.sampled_from(["text", "tool_result", "tool_use", "thinking", "redacted_thinking", "image", "new_thing"])
parts = st.fixed_dictionaries(
    {"type": kinds},
    optional={"text": values, "content": values, "input": values, "name": values, "cache_control": values},
)
contents = st.text(max_size=9) | st.lists(parts, max_size=4) | values
turns = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]), "content": contents})


@given(given_turns=st.lists(turns, min_size=1, max_size=5), indent=st.none() | st.integers(0, 3))
def test_any_messages_are_decoded_encoded_and_read(given_turns: list[dict[str, Any]], indent: int | None) -> None:
    body = json.dumps({"model": "m", "system": "Be brief.", "messages": given_turns}, indent=indent).encode()
    chat = decode(body)
    assert chat.encode() == body
    for message in chat.messages:
        turn = Turn.from_payload(message.stored, message.payload)
        assert turn.role == message.role
        assert len(turn.digest) == 16
    sent = json.loads(splice(chat, ['"<memory>block"']).encode())["messages"]
    left = [turn for turn in sent if turn["content"] != "<memory>block"]  # beside content that has no place for it
    for turn, was in zip(left, given_turns, strict=True):
        content = turn["content"]
        if isinstance(content, list):
            content = [part for part in content if part != messages.text("<memory>block")]
        assert content in (was["content"], [messages.text(was["content"])])


def test_a_turn_has_one_digest_whichever_api_it_came_through() -> None:
    function = {"name": "get_weather", "arguments": '{"city":"Paris"}'}
    chat: list[Any] = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Look", "tool_calls": [{"id": "1", "function": function}]},
        {"role": "tool", "tool_call_id": "1", "content": "Sunny"},
    ]
    cached = {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}
    call = messages.tool_use("get_weather", {"city": "Paris"}, "2")
    calls = [messages.thinking("x", "s"), messages.text("Look"), call]
    result = {"type": "tool_result", "tool_use_id": "2", "content": [messages.text("Sunny")]}
    other: list[Any] = [
        {"role": "user", "content": [cached]},
        {"role": "assistant", "content": calls},
        {"role": "user", "content": [result, messages.text("<system-reminder>Hurry.</system-reminder>")]},
    ]
    first = [m.payload for m in decode_chat(json.dumps({"messages": chat}).encode()).messages]
    second = [m.payload for m in decode(json.dumps({"messages": other}).encode()).messages]
    assert [digest(payload) for payload in first] == [digest(payload) for payload in second]


def test_a_mark_on_a_part_for_the_cache_makes_no_other_turn() -> None:
    image = {"type": "image", "source": {"type": "url", "url": "https://x.example/a.png"}}
    marked = image | {"cache_control": {"type": "ephemeral"}}
    plain, cached = ({"role": "user", "content": [one, messages.text("What is it?")]} for one in (image, marked))
    assert digest(plain) == digest(cached)


def test_the_sum_of_a_stream_is_the_message() -> None:
    copy = MESSAGES.copy()
    assert copy.feed(STREAM) + copy.held == STREAM
    assert copy.held.startswith(LAST)
    reply = copy.reply()
    assert reply == MESSAGES.reply(json.dumps(messages.message(CONTENT)).encode())
    assert reply.messages[0].payload["content"] == CONTENT
    assert reply.finish_reasons == ("tool_use",)


@pytest.mark.parametrize("stream", [STREAM, STREAM.replace(b"\n", b"\r\n")], ids=["LF", "CRLF"])
def test_a_stream_cut_at_any_byte_is_kept_as_far_as_it_came(stream: bytes) -> None:
    ends, said = stream.index(LAST), ""
    for at in range(len(stream) + 1):
        copy = MESSAGES.copy()
        first = copy.feed(stream[:at])
        assert stream.startswith(first)
        assert len(first) <= ends
        if at % 7 == 0:
            assert first + copy.feed(stream[at:]) + copy.held == stream
            assert copy.done
            assert copy.reply().messages[0].payload["content"] == CONTENT
            continue
        copy.close()
        reply = copy.reply()
        text = plain_text(reply.messages[0].payload) if reply.messages else ""
        assert text.startswith(said)
        said = text
    assert said == "Grüße, 👋! And more."


def test_half_of_a_calls_input_is_kept_as_text() -> None:
    copy = MESSAGES.copy()
    copy.feed(STREAM[: STREAM.index(b"content_block_stop", STREAM.index(b"input_json_delta")) - 400])
    call = copy.reply().messages[0].payload["content"][-1]
    assert call["name"] == "get_weather"
    assert call["input"] == {}


def test_a_break_is_reported_in_anthropics_words() -> None:
    error = ProviderUnreachable("The provider broke off.")
    copy = MESSAGES.copy()
    half = STREAM.index(b"event: ping") + 5
    relayed = copy.feed(STREAM[:half])
    assert relayed + copy.fail(error) == STREAM[: half - 5] + error_event(error)
    told = json.loads(error_event(error).partition(b"data: ")[2])
    assert told == {
        "type": "error",
        "error": {"type": "api_error", "message": "The provider broke off."},
        "request_id": None,
    }


def test_an_error_in_a_stream_is_no_answer() -> None:
    copy = MESSAGES.copy()
    copy.feed(messages.event("message_start", message=messages.message([])))
    copy.feed(messages.event("error", error={"type": "overloaded_error", "message": "Overloaded"}))
    reply = copy.reply()
    assert not reply.complete
    assert reply.error == {"type": "overloaded_error", "message": "Overloaded"}


def test_the_path_or_the_header_tells_in_whose_words_to_refuse() -> None:
    error = BadRequest("No.")
    base = "/v1/partition/a/instance/b"
    version = [(b"Anthropic-Version", b"2023-06-01")]
    for path, headers in [
        (f"{base}/messages", []),
        ("/partition/a/instance/b/v1/messages", []),
        (f"{base}/messages/count_tokens", []),
        (f"{base}/models", version),
    ]:
        assert json.loads(refusal(path, headers, error))["error"]["type"] == "invalid_request_error"
        assert json.loads(refusal(path, headers, error))["type"] == "error"
    for path in (f"{base}/chat/completions", f"{base}/responses", "/v1/nowhere", f"{base}/threads/1/messages"):
        assert refusal(path, [], error) == error.body()


@given(text=st.text(alphabet="<>/system-reminder \n", max_size=60))
def test_text_without_marks_stays_and_marked_parts_go(text: str) -> None:
    assert without_marked(f"{text}<system-reminder>secret</system-reminder>") == without_marked(text).strip() or (
        "<system-reminder" in text
    )
    if "<system-reminder" not in text:
        assert without_marked(text) == text


def test_marks_without_an_end_take_linear_time_and_stay() -> None:
    text = "<system-reminder>" * 200_000
    assert without_marked(text) == text
