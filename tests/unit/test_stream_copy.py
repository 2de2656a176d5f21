"""proxy/answer/stream_copy.py: the relayed bytes are those that arrived, and the copy adds up."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.answer import frames, room
from proxy.answer.stream_copy import StreamCopy
from proxy.dialects.chat_completions.dialect import CHAT_COMPLETIONS, error_event
from proxy.errors import ProviderUnreachable
from proxy.prompt.chat import Reply

DONE = b"data: [DONE]\n\n"


def event(payload: Any) -> bytes:
    return b"data: " + json.dumps(payload).encode() + b"\n\n"


def chunk(*choices: dict[str, Any], **more: Any) -> bytes:
    body = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-2024-08-06"}
    return event(body | {"choices": list(choices)} | more)


def delta(index: int = 0, finish_reason: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"index": index, "delta": fields, "logprobs": None, "finish_reason": finish_reason}


def call_piece(index: int | None, arguments: str | None = None, **fields: Any) -> dict[str, Any]:
    function = {} if arguments is None else {"arguments": arguments}
    name = fields.pop("name", None)
    piece = fields | {"function": function | ({"name": name} if name else {})}
    return piece if index is None else {"index": index} | piece


def copy_of(*parts: bytes) -> StreamCopy:
    copy = CHAT_COMPLETIONS.copy()
    for part in parts:
        copy.feed(part)
    return copy


def payload_of(*parts: bytes) -> Any:
    (message,) = copy_of(*parts).reply().messages
    assert json.loads(message.raw) == message.payload
    return message.payload


USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
TEXT_STREAM = (
    chunk(delta(role="assistant", content="", refusal=None))
    + chunk(delta(content="Grüße, "))
    + chunk(delta(content="\N{WAVING HAND SIGN}!"))
    + chunk(delta(finish_reason="stop"))
    + chunk(usage=USAGE)
    + DONE
)
TOOL_STREAM = (
    chunk(delta(role="assistant", content=None))
    + chunk(delta(tool_calls=[call_piece(0, "", id="call_a", type="function", name="get_weather")]))
    + chunk(delta(tool_calls=[call_piece(0, '{"city": ')]))
    + chunk(delta(tool_calls=[call_piece(1, "", id="call_b", type="function", name="get_time")]))
    + chunk(delta(tool_calls=[call_piece(1, "{}"), call_piece(0, '"Paris"}')]))
    + chunk(delta(finish_reason="tool_calls"))
    + DONE
)
STREAMS = {
    "text": TEXT_STREAM,
    "tools": TOOL_STREAM,
    "CRLF": TEXT_STREAM.replace(b"\n", b"\r\n"),
    "CR": TEXT_STREAM.replace(b"\n", b"\r"),
    "byte order mark": b"\xef\xbb\xbf" + TEXT_STREAM,
    "comments and fields": b": hello\nevent: message\nid: 7\nretry: 10\n" + TEXT_STREAM + b": bye\n\n",
    "raw UTF-8": b'data: {"choices":[{"index":0,"delta":{"content":"\xf0\x9f\x91\x8b \xc3\xbc"}}]}\n\n' + DONE,
    "only the end, after a byte order mark": b"\xef\xbb\xbfdata:[DONE]",
    "CRLF within an event": b'data: {"choices":\r\ndata: [{"delta":{"content":"Hi"}}]}\r\n\r\n' + DONE,
    "no end": TEXT_STREAM.removesuffix(DONE),
}


def test_streamed_text_adds_up_to_its_message() -> None:
    copy = copy_of(TEXT_STREAM)
    reply = copy.reply()
    assert [message.payload for message in reply.messages] == [
        {"role": "assistant", "content": "Grüße, \N{WAVING HAND SIGN}!"}
    ]
    assert reply.finish_reasons == ("stop",)
    assert reply.usage == USAGE
    assert reply.error is None
    assert reply.complete
    assert copy.malformed == 0
    assert not copy.truncated


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
def test_a_split_at_any_byte_changes_neither_the_relay_nor_the_copy(stream: bytes) -> None:
    whole = CHAT_COMPLETIONS.copy()
    relayed = whole.feed(stream)
    assert relayed + whole.held == stream
    whole.close()
    for at in range(len(stream) + 1):
        copy = CHAT_COMPLETIONS.copy()
        first = copy.feed(stream[:at])
        assert stream.startswith(first)
        assert at - len(first) <= 32 or copy.done
        assert first + copy.feed(stream[at:]) == relayed, at
        copy.close()
        assert copy.held == whole.held, at
        assert copy.reply() == whole.reply(), at
        assert (copy.done, copy.malformed) == (whole.done, whole.malformed)


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
def test_a_stream_that_comes_byte_by_byte_is_the_same_stream(stream: bytes) -> None:
    copy, whole = CHAT_COMPLETIONS.copy(), CHAT_COMPLETIONS.copy()
    relayed = b"".join(copy.feed(bytes([byte])) for byte in stream)
    assert relayed == whole.feed(stream)
    copy.close()
    whole.close()
    assert relayed + copy.held == stream
    assert copy.reply() == whole.reply()


FIELDS = ["choices", "delta", "index", "content", "tool_calls", "function", "id", "name", "role"]
FIELDS += ["error", "usage", "model", "type", "text", "thinking", "finish_reason"]
stream_pieces = st.lists(
    st.one_of(
        st.binary(max_size=12),
        st.sampled_from(
            [
                b"data:",
                b"data: ",
                b"[DONE]",
                b"data: [DONE]",
                b"\n",
                b"\r",
                b"\r\n",
                b"\n\n",
                b"\xef\xbb\xbf",
                b": c",
            ]
        ),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(FIELDS),
                    inner,
                    max_size=4,
                )
            ),
            max_leaves=12,
        ).map(event),
    ),
    max_size=25,
)


@given(stream_pieces)
@example([b"data: [DONE]", b"\r", b"\n", b"more"])
@example([b"data: x\r", b"\ndata: [DONE]\n", b"\n"])
def test_input_is_never_lost_or_reordered(pieces: list[bytes]) -> None:
    copy = CHAT_COMPLETIONS.copy()
    given_out = b""
    for i, piece in enumerate(pieces):
        given_out += copy.feed(piece)
        assert given_out + copy.held == b"".join(pieces[: i + 1])
        assert len(copy.held) <= 32 or copy.done
        copy.reply()
    copy.close()
    assert given_out + copy.held == b"".join(pieces)
    for message in copy.reply().messages:
        assert json.loads(message.raw, parse_constant=pytest.fail)["role"]


@pytest.mark.parametrize(
    "last",
    [
        b"data: [DONE]\n\n",
        b"data:[DONE]\n\n",
        b"data: [DONE]\r\n\r\n",
        b"data: [DONE]\r\r",
        b"data:  [DONE] \n\n",
        b"data: [DONE]\n",
        b"data: [DONE]\n\n: after\n\ndata: {}\n\n",
    ],
)
def test_the_terminal_event_and_everything_after_it_is_held_back(last: bytes) -> None:
    before = chunk(delta(content="Hi", finish_reason="stop"))
    copy = CHAT_COMPLETIONS.copy()
    assert copy.feed(before + last) == before
    assert copy.done
    assert copy.held == last
    assert copy.feed(b"data: more\n\n") == b""
    assert copy.release() == last + b"data: more\n\n"
    assert copy.held == b""
    assert copy.feed(b"and more") == b"and more"


def test_data_after_the_terminal_event_is_not_part_of_the_answer() -> None:
    after = chunk(delta(content="more")) + event({"error": {"message": "late"}})
    copy = copy_of(TEXT_STREAM + after, after)
    copy.close()
    assert copy.reply() == copy_of(TEXT_STREAM).reply()


@pytest.mark.parametrize(
    "line",
    [
        b"data: [DONE]!\n",
        b"data: [DON\n",
        b"data\n",
        b"xdata: [DONE]\n",
        b" data: [DONE]\n",
        b"data: [DONE][\n",
        b": [DONE]\n",
    ],
)
def test_a_line_that_only_resembles_the_terminal_event_is_relayed(line: bytes) -> None:
    copy = CHAT_COMPLETIONS.copy()
    assert copy.feed(line) == line
    assert not copy.done


def test_the_terminal_mark_inside_text_is_text() -> None:
    stream = chunk(delta(content="say data: [DONE]\n\ndata: [DONE]\n\n"))
    copy = CHAT_COMPLETIONS.copy()
    assert copy.feed(stream) == stream
    assert not copy.done
    assert copy.reply().messages[0].payload["content"] == "say data: [DONE]\n\ndata: [DONE]\n\n"


def test_the_start_of_a_line_is_held_only_while_it_may_become_the_end() -> None:
    copy = CHAT_COMPLETIONS.copy()
    assert copy.feed(b"data: ") == b""
    assert copy.held == b"data: "
    assert copy.feed(b"{") == b"data: {"
    assert copy.held == b""


def test_a_line_of_spaces_is_held_back_up_to_a_limit() -> None:
    copy = CHAT_COMPLETIONS.copy()
    out = b"".join(copy.feed(part) for part in [b"data:"] + [b" "] * 1000)
    assert out + copy.held == b"data:" + b" " * 1000
    assert len(copy.held) <= 32


def test_an_empty_stream_is_not_a_complete_answer() -> None:
    copy = CHAT_COMPLETIONS.copy()
    copy.close()
    assert copy.reply() == Reply()


def test_a_terminal_event_without_a_line_end_counts_when_the_stream_has_ended() -> None:
    copy = copy_of(chunk(delta(content="Hi")), b"data: [DONE]")
    assert not copy.done
    copy.close()
    assert copy.done
    assert copy.reply().complete
    assert copy.release() == b"data: [DONE]"


def test_a_last_event_without_its_empty_line_counts_when_the_stream_has_ended() -> None:
    copy = copy_of(chunk(delta(content="Hi")), chunk(delta(content=" there")).rstrip(b"\n"))
    assert copy.reply().messages[0].payload["content"] == "Hi"
    copy.close()
    assert copy.reply().messages[0].payload["content"] == "Hi there"
    copy.close()
    assert copy.reply().messages[0].payload["content"] == "Hi there"


def test_tool_calls_are_assembled_by_index() -> None:
    assert payload_of(TOOL_STREAM) == {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_a",
                "type": "function",
                "function": {"arguments": '{"city": "Paris"}', "name": "get_weather"},
            },
            {"id": "call_b", "type": "function", "function": {"arguments": "{}", "name": "get_time"}},
        ],
    }


def test_tool_calls_that_share_an_index_or_have_none_are_told_apart_by_id_and_name() -> None:
    calls = [
        call_piece(0, "{}", id="a", name="f"),
        call_piece(0, "{}", id="b", name="g"),
        call_piece(None, '{"x"', id="c", name="g"),
        call_piece(None, ": 1}"),
    ]
    found = payload_of(*(chunk(delta(tool_calls=[call])) for call in calls))["tool_calls"]
    assert [(call["id"], call["function"]) for call in found] == [
        ("a", {"arguments": "{}", "name": "f"}),
        ("b", {"arguments": "{}", "name": "g"}),
        ("c", {"arguments": '{"x": 1}', "name": "g"}),
    ]


def test_providers_that_repeat_or_invent_ids_do_not_multiply_calls() -> None:
    repeated = [call_piece(0, part, id="a", type="function", name="f") for part in ('{"x"', ": 1", "}")]
    invented = [call_piece(0, "{", id="a", name="f"), call_piece(0, "}", id="b")]
    (first,) = payload_of(*(chunk(delta(tool_calls=[call])) for call in repeated))["tool_calls"]
    assert first == {"id": "a", "type": "function", "function": {"arguments": '{"x": 1}', "name": "f"}}
    (second,) = payload_of(*(chunk(delta(tool_calls=[call])) for call in invented))["tool_calls"]
    assert second["function"] == {"arguments": "{}", "name": "f"}
    assert second["type"] == "function"


def test_unknown_fields_of_a_tool_call_are_kept() -> None:
    signature = {"google": {"thought_signature": "abc"}}
    (call,) = payload_of(chunk(delta(tool_calls=[call_piece(0, "{}", id="a", name="f", extra_content=signature)])))[
        "tool_calls"
    ]
    assert call["extra_content"] == signature


def test_custom_tool_calls_and_legacy_function_calls_are_assembled() -> None:
    custom = [{"index": 0, "id": "a", "type": "custom", "custom": {"name": "sh", "input": "l"}}]
    assert payload_of(
        chunk(delta(tool_calls=custom, function_call={"name": "f", "arguments": "{"})),
        chunk(delta(tool_calls=[{"index": 0, "custom": {"input": "s"}}], function_call={"arguments": "}"})),
    ) == {
        "role": "assistant",
        "content": None,
        "function_call": {"name": "f", "arguments": "{}"},
        "tool_calls": [{"id": "a", "type": "custom", "custom": {"name": "sh", "input": "ls"}}],
    }


def test_several_choices_come_in_the_order_of_their_index() -> None:
    reply = copy_of(
        chunk(delta(1, content="one")),
        chunk(delta(0, content="zero"), delta(1, content=" more")),
        chunk(delta(1, "length")),
    ).reply()
    assert [message.payload["content"] for message in reply.messages] == ["zero", "one more"]
    assert reply.finish_reasons == ("", "length")
    assert not reply.complete


def test_an_answer_is_complete_without_a_terminal_event_once_all_choices_have_finished() -> None:
    copy = copy_of(chunk(delta(0, content="a"), delta(1, content="b")), chunk(delta(0, "stop")))
    assert not copy.reply().complete
    copy.feed(chunk(delta(1, "stop")))
    assert copy.reply().complete
    assert not copy.done


def test_an_answer_with_only_reasoning_is_kept() -> None:
    assert payload_of(
        chunk(delta(role="assistant", reasoning_content="Let ")),
        chunk(delta(reasoning_content="me", reasoning="think", odd="a")),
        chunk(delta(odd="b", odd_number=1, odd_object={"a": 1})),
        chunk(delta(odd_number=2, odd_object={"b": 2}, odd_list=[1])),
        chunk(delta(odd_list=[2])),
    ) == {
        "role": "assistant",
        "content": None,
        "reasoning_content": "Let me",
        "reasoning": "think",
        "odd": "ab",
        "odd_number": 2,
        "odd_object": {"b": 2},
        "odd_list": [1, 2],
    }


def test_content_that_comes_as_parts_is_joined_part_by_part() -> None:
    def thought(text: str) -> list[Any]:
        return [{"type": "thinking", "thinking": [{"type": "text", "text": text}]}]

    assert payload_of(
        chunk(delta(content="")),
        chunk(delta(content=thought("I th"))),
        chunk(delta(content=thought("ink."))),
        chunk(delta(content="Yes")),
        chunk(delta(content=" indeed")),
        chunk(delta(content=[{"type": "reference", "reference_ids": [1]}])),
    )["content"] == [
        {"type": "text", "text": ""},
        {"type": "thinking", "thinking": [{"type": "text", "text": "I think."}]},
        {"type": "text", "text": "Yes indeed"},
        {"type": "reference", "reference_ids": [1]},
    ]


def test_refusals_and_audio_are_assembled() -> None:
    assert payload_of(
        chunk(delta(refusal="I ca", audio={"id": "audio_1", "transcript": "He"})),
        chunk(delta(refusal="nnot", audio={"transcript": "llo", "data": "AA"})),
        chunk(delta(audio={"data": "BB", "expires_at": 5})),
    ) == {
        "role": "assistant",
        "content": None,
        "refusal": "I cannot",
        "audio": {"id": "audio_1", "transcript": "Hello", "data": "AABB", "expires_at": 5},
    }


def test_a_stream_with_only_usage_has_no_message() -> None:
    assert copy_of(chunk(usage=USAGE), DONE).reply() == Reply(usage=USAGE, complete=True)


def test_an_error_frame_is_kept_and_the_answer_is_not_complete() -> None:
    error = {"message": "The server had an error", "type": "server_error", "code": None}
    reply = copy_of(chunk(delta(content="Hal")), event({"error": error}), DONE).reply()
    assert reply.error == error
    assert reply.messages[0].payload["content"] == "Hal"
    assert not reply.complete


def test_the_answer_can_be_read_at_any_time() -> None:
    copy = copy_of(chunk(delta(content="Hal")))
    assert copy.reply().messages[0].payload["content"] == "Hal"
    copy.feed(chunk(delta(content="lo")))
    assert copy.reply().messages[0].payload["content"] == "Hallo"


def test_data_lines_of_one_event_are_one_text() -> None:
    assert payload_of(b'data: {"choices":\ndata: [{"delta":\ndata:{"content":"Hi"}}]}\n\n')["content"] == "Hi"


@pytest.mark.parametrize("bad", [b"data: {oops\n\n", b"data: 5\n\n", b"data: " + b"[" * 100_000 + b"\n\n"])
def test_an_event_that_is_not_a_chunk_is_skipped_and_counted(bad: bytes) -> None:
    copy = copy_of(chunk(delta(content="a")), bad, chunk(delta(content="b")))
    assert copy.malformed == 1
    assert copy.reply().messages[0].payload["content"] == "ab"


def test_comments_and_other_fields_and_empty_events_are_not_malformed() -> None:
    copy = copy_of(b": PROCESSING\n\nevent: ping\n\ndata\n\nid: 1\ndata:\n\n", chunk(delta(content="a")))
    assert copy.malformed == 0
    assert copy.reply().messages[0].payload["content"] == "a"


def test_a_character_split_into_two_escapes_is_joined() -> None:
    stream = rb'data: {"choices":[{"delta":{"content":"%s"}}]}' + b"\n\n"
    message = copy_of(stream % rb"\ud83d", stream % rb"\udc4b").reply().messages[0]
    assert message.payload["content"] == "\N{WAVING HAND SIGN}"
    assert json.loads(message.raw)["content"] == "\N{WAVING HAND SIGN}"


def test_a_lone_surrogate_is_replaced() -> None:
    message = copy_of(rb'data: {"choices":[{"delta":{"content":"a\ud83d"}}]}' + b"\n\n").reply().messages[0]
    message.payload["content"].encode()


def test_numbers_outside_json_become_null() -> None:
    reply = copy_of(b'data: {"usage": {"a": NaN, "b": 1e999, "c": 1.5}}\n\n').reply()
    assert reply.usage == {"a": None, "b": None, "c": 1.5}


def test_absurdly_nested_values_are_dropped() -> None:
    deep = b"[" * 500 + b"]" * 500
    payload = payload_of(b'data: {"choices":[{"delta":{"content":"a","odd":' + deep + b"}}]}\n\n")
    assert payload == {"role": "assistant", "content": "a"}


def test_the_copy_stops_at_its_limit_and_the_relay_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "COPY_LIMIT", 10_000)
    copy = CHAT_COMPLETIONS.copy()
    parts = [chunk(delta(content="x" * 1000)) for _ in range(20)] + [chunk(delta(content="x", finish_reason="stop"))]
    for part in parts:
        assert copy.feed(part) == part
    assert copy.truncated
    reply = copy.reply()
    assert reply.messages[0].payload["content"] == "x" * 9000
    assert reply.finish_reasons == ("stop",)


def test_a_full_copy_takes_no_later_pieces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(room, "COPY_LIMIT", 2000)
    stream = [chunk(delta(content=text)) for text in ("start", "x" * 3000, "end")]
    assert payload_of(*stream)["content"] == "start"


def test_an_event_that_is_too_large_is_skipped_and_the_next_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(frames, "EVENT_LIMIT", 1000)
    large = b"data: " + b"x" * 600
    copy = CHAT_COMPLETIONS.copy()
    assert copy.feed(large) == large
    assert copy.feed(b"x" * 600) == b"x" * 600
    assert sum(map(len, copy._frames._line)) == 0
    copy.feed(b"\n\n" + chunk(delta(content="a")) + b": comment\n" * 300)
    copy.feed(chunk(delta(content="b")))
    assert copy.malformed == 1
    assert copy.reply().messages[0].payload["content"] == "ab"


def test_a_failure_between_events_is_one_more_event() -> None:
    copy = copy_of(chunk(delta(content="a")))
    error = ProviderUnreachable("The provider broke off.")
    assert copy.fail(error) == error_event(error)
    assert json.loads(error_event(error).removeprefix(b"data: "))["error"]["code"] == "provider_unreachable"


@pytest.mark.parametrize(
    "broken",
    [b'data: {"choi', b'data: {"a":1}\n', b'data: {"a":1}\r', b"event: x\n", b": c", b"dat", b"data: [DON"],
)
def test_a_failure_within_an_event_does_not_become_part_of_it(broken: bytes) -> None:
    provider, client = CHAT_COMPLETIONS.copy(), CHAT_COMPLETIONS.copy()
    out = provider.feed(chunk(delta(content="a"))) + provider.feed(broken)
    out += provider.fail(ProviderUnreachable("The provider broke off."))
    assert provider.held == b""
    client.feed(out)
    error = client.reply().error
    assert error["message"] == "The provider broke off."
    assert error["type"] == "upstream_error"


def test_a_failure_after_the_terminal_event_is_ignored() -> None:
    copy = copy_of(TEXT_STREAM)
    assert copy.fail(ProviderUnreachable("The provider broke off.")) == DONE
    assert copy.reply().complete
