"""Streams are relayed as they arrive, stored as far as they arrived, and stopped when their client leaves."""

from __future__ import annotations

import gzip
import json
from typing import Any

import httpx
import pytest
from openai import OpenAI

from tests.end_to_end import store
from tests.end_to_end.asking import Scope, chat, says, streamed
from tests.fake_provider.answers import Answer, Cut, Gate, Pause, chunk, completion, event, stream_answer, stream_events
from tests.fake_provider.provider import FakeProvider
from tests.server import Server


def test_a_stream_is_relayed_byte_for_byte_as_it_arrives(server: Server, scope: Scope, provider: FakeProvider) -> None:
    events = stream_events("Hello there, how are you?", usage=True)
    pieces: list[Any] = []
    for one in events:
        pieces += [one[:7], Pause(0.03), one[7:]]
    provider.answer(Answer(headers=[("Content-Type", "text/event-stream")], body=pieces))
    data, times = streamed(server, scope, says("hi", stream=True))
    assert data == b"".join(events)
    assert times[-1] - times[0] > 0.1
    stored = store.messages(server, scope)[-1]
    assert (stored["role"], stored["content"]) == ("assistant", "Hello there, how are you?")
    (exchange,) = store.exchanges(server, scope)
    assert (exchange["ended"], exchange["finish_reason"]) == ("answered", "stop")
    assert exchange["usage"] and exchange["cost"] is not None


def test_the_end_of_a_stream_is_held_back_until_the_answer_is_stored(
    server: Server, scope: Scope, provider: FakeProvider
) -> None:
    url = f"{server.base_url(*scope)}/chat/completions"
    with httpx.stream("POST", url, json=says("hi", stream=True), trust_env=False) as answer:
        for line in answer.iter_lines():
            if "[DONE]" in line:
                assert len(store.messages(server, scope)) == 2


def test_a_stream_with_tool_calls_and_several_choices_is_stored_whole(
    server: Server, scope: Scope, provider: FakeProvider
) -> None:
    def calling(**call: Any) -> bytes:
        return chunk({"tool_calls": [{"index": 0, **call}]})

    events = [
        chunk({"role": "assistant", "content": None}),
        calling(id="c1", type="function", function={"name": "f", "arguments": '{"a'}),
        calling(function={"arguments": '": 1}'}),
        chunk({"content": "other"}, index=1),
        chunk({}, finish="tool_calls"),
        chunk({}, finish="stop", index=1),
        event("[DONE]"),
    ]
    provider.answer(Answer(headers=[("Content-Type", "text/event-stream")], body=events))
    streamed(server, scope, says("hi", stream=True, n=2))
    _, first, second = store.messages(server, scope)
    assert json.loads(first["payload"])["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a": 1}'}
    assert (second["content"], second["choice"]) == ("other", 1)


@pytest.mark.parametrize("cut", [Cut.FIN, Cut.RST])
def test_a_stream_that_breaks_off_ends_with_an_error_and_is_stored_up_to_the_break(
    server: Server, scope: Scope, provider: FakeProvider, cut: Cut
) -> None:
    events = stream_events("Hello there")[:3]
    provider.answer(Answer(headers=[("Content-Type", "text/event-stream")], body=[*events, Pause(0.1), cut]))
    data, _ = streamed(server, scope, says("hi", stream=True))
    assert data.startswith(b"".join(events))
    assert b'data: {"error"' in data[len(b"".join(events)) :]
    _question, partial = store.messages(server, scope)
    assert (partial["content"], partial["partial"]) == ("Hello there", True)
    assert store.exchanges(server, scope)[-1]["ended"] == "cut"


def test_a_client_that_leaves_mid_stream_stops_the_provider_and_the_partial_answer_is_stored(
    server: Server, scope: Scope, provider: FakeProvider
) -> None:
    gate = Gate()
    events = stream_events("Hello there my friend")
    provider.answer(Answer(headers=[("Content-Type", "text/event-stream")], body=[*events[:3], gate, *events[3:]]))
    url = f"{server.base_url(*scope)}/chat/completions"
    with httpx.stream("POST", url, json=says("hi", stream=True), trust_env=False) as answer:
        next(answer.iter_raw())
        assert gate.reached.wait(300)
    assert provider.last.gone.wait(300), "the provider's stream stayed open"
    gate.open()
    store.wait_for_end(server, scope, "gone")
    assert store.messages(server, scope)[-1]["partial"] is True


def test_a_client_that_leaves_before_the_answer_cancels_the_providers_request(
    server: Server, scope: Scope, provider: FakeProvider
) -> None:
    gate = Gate()
    provider.answer(Answer(before=[gate], body=completion("late")))
    with pytest.raises(httpx.ReadTimeout), httpx.Client(trust_env=False, timeout=2) as client:
        client.post(f"{server.base_url(*scope)}/chat/completions", json=says("hi"))
    assert provider.last.gone.wait(300), "the provider's request stayed open"
    gate.open()
    store.wait_for_end(server, scope, "gone")
    assert [m["content"] for m in store.messages(server, scope)] == ["hi"]


def test_an_answer_compressed_against_our_wish_is_relayed_and_stored(
    server: Server, scope: Scope, provider: FakeProvider
) -> None:
    headers = [("Content-Type", "application/json"), ("Content-Encoding", "gzip")]
    provider.answer(Answer(200, headers, gzip.compress(completion("zipped"))))
    assert chat(server, scope, says("hi")).json()["choices"][0]["message"]["content"] == "zipped"
    body = gzip.compress(b"".join(stream_events("zipped stream")))
    provider.answer(Answer(200, [("Content-Type", "text/event-stream"), headers[1]], [body[:40], body[40:]]))
    data, _ = streamed(server, scope, says("hi again", stream=True))
    assert data == body
    assert [m["content"] for m in store.messages(server, scope)][1::2] == ["zipped", "zipped stream"]


def test_the_openai_library_reads_a_stream_to_its_end(client: OpenAI, provider: FakeProvider) -> None:
    provider.answer(stream_answer("One two three"))
    messages: list[Any] = [{"role": "user", "content": "count"}]
    stream = client.chat.completions.create(model="gpt-4", messages=messages, stream=True)
    assert "".join(part.choices[0].delta.content or "" for part in stream if part.choices) == "One two three"
