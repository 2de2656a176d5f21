"""Streams that deviate from the protocol are added up by their meaning."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.answer.frames import WholeEvents, are_events
from proxy.dialects.chat_completions.dialect import CHAT_COMPLETIONS


def chunk(delta: dict[str, Any], finish: str | None = None, key: str = "delta") -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, key: delta, "finish_reason": finish}]}).encode()


def call(index: int | None, call_id: str | None, name: str | None, arguments: str | None) -> dict[str, Any]:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    fields = {"index": index, "id": call_id, "type": "function", "function": function}
    return {key: value for key, value in fields.items() if value is not None}


def calls_of(*events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    copy = CHAT_COMPLETIONS.copy()
    for calls in events:
        copy.feed(chunk({"role": "assistant", "content": None, "tool_calls": calls}) + b"\n\n")
    copy.close()
    functions = [call["function"] for call in copy.reply().messages[0].payload["tool_calls"]]
    return [(function["name"], function["arguments"]) for function in functions]


WEATHER, CLOCK = ("weather", '{"c":1}'), ("clock", '{"t":2}')


@pytest.mark.parametrize(
    ("events", "calls"),
    [
        ([[call(0, "", *WEATHER)], [call(0, "", *CLOCK)]], [WEATHER, CLOCK]),
        ([[call(0, "", *WEATHER)], [call(0, "", "weather", '{"c":2}')]], [WEATHER, ("weather", '{"c":2}')]),
        ([[call(None, None, *WEATHER), call(None, None, *CLOCK)]], [WEATHER, CLOCK]),
        ([[call(None, None, *WEATHER)], [call(None, None, *CLOCK)]], [WEATHER, CLOCK]),
        (
            [[call(0, "a", "weather", "")], [call(1, None, None, '{"c":')], [call(1, None, None, "1}")]],
            [WEATHER],
        ),
        (
            [[call(0, "a", "weather", '{"c"')], [call(0, "a", "weather", ":1}")], [call(0, "a", "weather", "")]],
            [WEATHER],
        ),
        ([[call(0, None, "weather", "")], [call(0, None, None, '{"c":1}')], [call(1, None, *CLOCK)]], [WEATHER, CLOCK]),
        (
            [
                [call(None, None, "weather", "{"), call(None, None, "clock", "{")],
                [call(None, None, None, '"c":1}'), call(None, None, None, '"t":2}')],
            ],
            [WEATHER, CLOCK],
        ),
    ],
)
def test_calls_without_ids_or_with_a_shifted_index_are_distinguished(
    events: list[list[dict[str, Any]]], calls: list[tuple[str, str]]
) -> None:
    assert calls_of(*events) == calls


def test_events_ended_by_one_line_break_are_events() -> None:
    copy = CHAT_COMPLETIONS.copy()
    for text in ("Hi", " you"):
        copy.feed(chunk({"content": text}) + b"\n")
    copy.feed(chunk({}, "stop") + b"\ndata: [DONE]\n")
    assert copy.done
    assert [message.payload["content"] for message in copy.reply().messages] == ["Hi you"]


def test_events_ended_by_one_line_break_are_relayed_as_they_come() -> None:
    events = WholeEvents()
    assert events.feed(b"data: {1}\n") == b""
    assert events.feed(b"data: {2}\nda") == b"data: {1}\n"
    assert events.feed(b"ta: {3}\n") == b"data: {2}\n"
    assert events.rest() == b"data: {3}\n"


def test_a_whole_message_instead_of_a_delta_counts() -> None:
    copy = CHAT_COMPLETIONS.copy()
    copy.feed(chunk({"role": "assistant", "content": "Hello"}, "stop", key="message") + b"\n\n")
    copy.close()
    assert copy.reply().complete
    assert copy.reply().messages[0].payload["content"] == "Hello"


@pytest.mark.parametrize(
    ("beginning", "result"),
    [
        (b"", None),
        (b" \n", None),
        (b"da", None),
        (b"data: {", True),
        (b"\xef\xbb\xbfevent: x", True),
        (b": ping", True),
        (b'{"id"', False),
        (b"<html>", False),
        (b"dash", False),
    ],
)
def test_a_stream_is_recognized_by_its_first_bytes(beginning: bytes, result: bool | None) -> None:
    assert are_events(beginning) is result
