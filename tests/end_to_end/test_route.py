"""The chat route, as an app and as a provider see it: what goes out, what comes back, what is kept."""

from __future__ import annotations

import gzip
import json
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from tests.end_to_end import store
from tests.end_to_end.conftest import StartServer
from tests.fake_provider import (
    Answer,
    Cut,
    FakeProvider,
    Gate,
    Pause,
    chunk,
    closed_port,
    completion,
    error_body,
    event,
    stream_answer,
    stream_events,
    text_answer,
)
from tests.server import Server

Scope = tuple[str, str]
JSON = {"Content-Type": "application/json"}


def chat(server: Server, scope: Scope, body: Any, **headers: str) -> httpx.Response:
    """Post a chat request as given: JSON text, bytes, or a value."""
    content = body if isinstance(body, str | bytes) else json.dumps(body)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    url = f"{server.base_url(*scope)}/chat/completions"
    return httpx.post(url, content=content, headers=JSON | names, timeout=30, trust_env=False)


def says(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "gpt-4", "messages": [{"role": "user", "content": text}], **more}


# --- what goes out ------------------------------------------------------------------------------------


def test_a_request_that_memory_does_not_change_goes_out_as_the_bytes_that_came(
    server: Server, scope: Scope, provider: FakeProvider
) -> None:
    body = '{ "temperature":1.0e0,"seed":12345678901234567890, "messages" : [{"content":"h\\u00e9","role":"user"} ]}'
    chat(server, scope, body)
    assert provider.last.body == body.encode()


def test_a_changed_request_keeps_every_value_outside_messages_and_every_message(
    server: Server, scope: Scope, provider: FakeProvider
) -> None:
    chat(server, scope, says("The password of the cellar is swordfish."))
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    sent = (
        '{"z": 1.10, "tools": [{"type":"function","function":{"name":"f","parameters":{"b":1,"a":2}}}], "x_new": [1e3],'
        ' "messages": [{"role": "developer", "content": "Be brief.", "extra": 1.0}, {"role": "user", "content":'
        f' [{{"type": "text", "text": "What is the password of the cellar?"}}, {json.dumps(image)}]}}],'
        ' "response_format": {"type": "text"}, "model": "gpt-4", "n": 2}'
    )
    chat(server, scope, sent)
    got = provider.last.body.decode()
    before, after = sent.split('"messages": [')[0], sent.split("}]}],")[1]
    assert got.startswith(before) and got.endswith(after)
    assert '{"role": "developer", "content": "Be brief.", "extra": 1.0}' in got
    assert [m["role"] for m in provider.last.messages] == ["developer", "user", "assistant", "user"]
    assert provider.last.messages[-1]["content"][1] == image


def test_headers_go_along_but_for_those_of_the_connection_and_ours(
    server: Server, scope: Scope, provider: FakeProvider
) -> None:
    chat(
        server,
        scope,
        says("hi"),
        Authorization="Bearer sk-mine",
        OpenAI_Organization="org-1",
        X_Custom="kept",
        Cookie="a=b",
        X_Reservoir_Budget="10",
        Connection="close, x-hop",
        X_Hop="dropped",
    )
    names = {name.lower() for name, _ in provider.last.headers}
    assert provider.last.header("authorization") == "Bearer sk-mine"
    assert provider.last.header("openai-organization") == "org-1"
    assert provider.last.header("x-custom") == "kept"
    assert provider.last.header("accept-encoding") == "identity"
    assert provider.last.header("host") == f"127.0.0.1:{provider.port}"
    assert not names & {"cookie", "x-reservoir-budget", "x-hop"}


def test_no_cookie_of_one_scope_reaches_the_provider_with_anothers_request(
    server: Server, scope: Scope, provider: FakeProvider
) -> None:
    provider.answer(text_answer("one", [("Set-Cookie", "session=secret"), ("Set-Cookie", "b=c; Path=/")]))
    first = chat(server, scope, says("hi"))
    chat(server, ("another", "scope"), says("hi"))
    assert "set-cookie" not in first.headers
    assert provider.last.header("cookie") is None


def test_a_request_without_a_key_gets_the_providers_own_and_no_others(
    start_beside: StartServer, scope: Scope, provider: FakeProvider
) -> None:
    server = start_beside(
        {
            "OPENAI_API_KEY": "sk-env",
            "MISTRAL_API_KEY": "mk-env",
            "RSV_MISTRAL_BASE_URL": f"{provider.base_url}/chat/completions",
            "RSV_OLLAMA_BASE_URL": provider.base_url,
        }
    )
    chat(server, scope, says("hi"))
    assert provider.last.header("authorization") == "Bearer sk-env"
    chat(server, scope, says("hi") | {"model": "mistral/open-mistral-7b"})
    assert provider.last.header("authorization") == "Bearer mk-env"
    assert provider.last.json["model"] == "open-mistral-7b"
    chat(server, scope, says("hi") | {"model": "llama3.2"})
    assert provider.last.header("authorization") is None
    chat(server, scope, says("hi"), Authorization="Bearer sk-mine")
    assert provider.last.header("authorization") == "Bearer sk-mine"


def test_nothing_is_sent_twice_when_a_connection_breaks(server: Server, scope: Scope, provider: FakeProvider) -> None:
    chat(server, scope, says("warms the connection up"))
    provider.answer_always(lambda request: Answer(before=[Cut.RST]))
    before = len(provider.requests)
    assert chat(server, scope, says("hi")).status_code == 502
    with httpx.Client(trust_env=False) as client:
        assert client.get(f"{server.base_url(*scope)}/models").status_code == 502
    assert len(provider.requests) - before == 2


# --- what comes back ----------------------------------------------------------------------------------


def test_the_answer_comes_back_as_it_was(server: Server, scope: Scope, provider: FakeProvider) -> None:
    body = completion("Hello", x_unknown={"a": 1.50})
    kept = [("x-request-id", "req_9"), ("openai-processing-ms", "5"), ("x-ratelimit-remaining-tokens", "7")]
    dropped = [("access-control-allow-origin", "*"), ("set-cookie", "a=b"), ("x-reservoir-memory", "forged")]
    provider.answer(Answer(200, [("Content-Type", "application/json"), *kept, *dropped], body))
    answer = chat(server, scope, says("hi"))
    assert answer.content == body
    assert {name: answer.headers[name] for name, _ in kept} == dict(kept)
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["x-reservoir-memory"] == "on"
    assert len(answer.headers["x-reservoir-trace-id"]) == 36
    assert "recall;dur=" in answer.headers["server-timing"]


@pytest.mark.parametrize("status", [400, 401, 429, 500])
def test_a_providers_error_comes_back_as_it_was_and_the_question_stays(
    server: Server, scope: Scope, provider: FakeProvider, status: int
) -> None:
    body = error_body("No.", code="nope")
    provider.answer(Answer(status, [("Content-Type", "application/json"), ("retry-after", "7")], body))
    answer = chat(server, scope, says("hi"))
    assert (answer.status_code, answer.content, answer.headers["retry-after"]) == (status, body, "7")
    assert [m["content"] for m in store.messages(server, scope)] == ["hi"]
    (exchange,) = store.exchanges(server, scope)
    assert (exchange["ended"], exchange["status"]) == ("failed", status)


def test_what_is_not_json_is_passed_on_as_it_came(server: Server, scope: Scope, provider: FakeProvider) -> None:
    provider.answer(Answer(200, [("Content-Type", "text/html")], b"<h1>\xffmaintenance"))
    answer = chat(server, scope, says("hi"))
    assert answer.content == b"<h1>\xffmaintenance"
    assert answer.headers["content-type"] == "text/html"


def test_a_provider_that_refuses_connections_is_a_502_in_openais_shape(start_beside: StartServer, scope: Scope) -> None:
    with closed_port() as port:
        server = start_beside({"RSV_OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1"})
        answer = chat(server, scope, says("hi"))
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "provider_unreachable"
    assert answer.headers["x-reservoir-trace-id"]
    assert [m["content"] for m in store.messages(server, scope)] == ["hi"]


# --- what the model gets to see -----------------------------------------------------------------------


def test_a_client_without_history_gets_the_latest_turns_as_turns(
    client: OpenAI, provider: FakeProvider, server: Server
) -> None:
    for text in ("My dog is called Rex.", "He loves cheese."):
        client.chat.completions.create(model="gpt-4", messages=[{"role": "user", "content": text}])
    raw = client.chat.completions.with_raw_response.create(
        model="gpt-4",
        messages=[{"role": "system", "content": "Be nice."}, {"role": "user", "content": "What is he called?"}],
    )
    assert [(m["role"], m["content"]) for m in provider.last.messages] == [
        ("system", "Be nice."),
        ("user", "My dog is called Rex."),
        ("assistant", "You said: My dog is called Rex."),
        ("user", "He loves cheese."),
        ("assistant", "You said: He loves cheese."),
        ("user", "What is he called?"),
    ]
    assert raw.headers["x-reservoir-memories"] == "4"
    assert int(raw.headers["x-reservoir-memory-tokens"]) > 20


def test_of_several_choices_one_is_added_as_the_turn(client: OpenAI, provider: FakeProvider) -> None:
    client.chat.completions.create(model="gpt-4", n=3, messages=[{"role": "user", "content": "Name my dog."}])
    client.chat.completions.create(model="gpt-4", messages=[{"role": "user", "content": "Why that name?"}])
    assert [m["role"] for m in provider.last.messages] == ["user", "assistant", "user"]


def with_history(question: str, **more: Any) -> dict[str, Any]:
    return {
        "model": "gpt-4",
        "messages": [
            {"role": "system", "content": "Be nice."},
            {"role": "user", "content": "Good morning"},
            {"role": "assistant", "content": "Good morning to you"},
            {"role": "user", "content": question},
        ],
        **more,
    }


def test_memories_stand_in_one_block_before_the_last_user_message(
    server: Server, scope: Scope, provider: FakeProvider
) -> None:
    chat(server, scope, says("My dog is called Rex."))
    body = with_history("What is my dog called?")
    answer = chat(server, scope, body)
    got = provider.last.messages
    assert got[:3] == body["messages"][:3] and got[4] == body["messages"][3] and len(got) == 5
    assert got[3]["role"] == "system"
    assert "user: My dog is called Rex." in got[3]["content"]
    assert "not instructions" in got[3]["content"]
    assert answer.headers["x-reservoir-memories"] == "2"


def test_nothing_of_another_instance_or_partition_is_seen(server: Server, scope: Scope, provider: FakeProvider) -> None:
    chat(server, scope, says("My dog is called Rex."))
    partition, instance = scope
    for other in ((partition, f"{instance}2"), (f"{partition}2", instance), (partition, f"{instance}/x")):
        answer = chat(server, other, says("What is my dog called?"))
        assert "Rex" not in provider.last.body.decode()
        assert answer.headers["x-reservoir-memories"] == "0"


def test_a_slash_in_a_name_belongs_to_the_name(server: Server, provider: FakeProvider, scope: Scope) -> None:
    url = f"{server.url}/v1/partition/{scope[0]}/instance/team%2Falice/chat/completions"
    for text in ("My dog is called Rex.", "What is my dog called?"):
        httpx.post(url, json=says(text), trust_env=False)
    assert "Rex" in provider.last.body.decode()
    assert len(store.messages(server, (scope[0], "team/alice"))) == 4


def test_what_the_request_holds_already_is_not_added(server: Server, scope: Scope, provider: FakeProvider) -> None:
    chat(server, scope, says("My dog is called Rex."))
    body = {
        "model": "gpt-4",
        "messages": [
            {"role": "user", "content": "My dog is called Rex."},
            {"role": "assistant", "content": "You said: My dog is called Rex."},
            {"role": "user", "content": "What is my dog called?"},
        ],
    }
    answer = chat(server, scope, body)
    assert provider.last.messages == body["messages"]
    assert answer.headers["x-reservoir-memories"] == "0"


def test_mistral_gets_the_block_as_a_user_message(
    start_beside: StartServer, scope: Scope, provider: FakeProvider
) -> None:
    server = start_beside({"RSV_MISTRAL_BASE_URL": provider.base_url})
    chat(server, scope, says("My dog is called Rex."))
    chat(server, scope, with_history("What is my dog called?") | {"model": "mistral-small-latest"})
    assert provider.last.messages[3]["role"] == "user"
    assert "Rex" in provider.last.messages[3]["content"]


def test_recall_off_and_store_off_are_independent(server: Server, scope: Scope, provider: FakeProvider) -> None:
    chat(server, scope, says("My dog is called Rex."))
    body = json.dumps(says("What is my dog called?"))
    answer = chat(server, scope, body, X_Reservoir_Recall="off", X_Reservoir_Store="off")
    assert provider.last.body == body.encode()
    assert answer.headers["x-reservoir-memory"] == "off"
    assert len(store.messages(server, scope)) == 2
    chat(server, scope, body, X_Reservoir_Store="off")
    assert "Rex" in provider.last.body.decode()
    assert len(store.messages(server, scope)) == 2
    chat(server, scope, body, X_Reservoir_Recall="off")
    assert provider.last.body == body.encode()
    assert len(store.messages(server, scope)) == 4


def test_a_budget_of_nothing_adds_no_block(server: Server, scope: Scope, provider: FakeProvider) -> None:
    chat(server, scope, says("My dog is called Rex."))
    body = json.dumps(with_history("What is my dog called?"))
    chat(server, scope, body, X_Reservoir_Budget="0")
    assert provider.last.body == body.encode()


def test_without_a_user_message_nothing_is_recalled(server: Server, scope: Scope, provider: FakeProvider) -> None:
    chat(server, scope, says("My dog is called Rex."))
    body = json.dumps({"model": "gpt-4", "messages": [{"role": "system", "content": "What is my dog called?"}]})
    chat(server, scope, body)
    assert provider.last.body == body.encode()


def test_in_a_tool_loop_the_same_is_added_byte_for_byte(server: Server, scope: Scope, provider: FakeProvider) -> None:
    chat(server, scope, says("My dog is called Rex."))
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    calling = {"role": "assistant", "content": None, "tool_calls": [call]}
    question = with_history("What is my dog called?")
    provider.answer(Answer(body=completion("", message=calling)))
    chat(server, scope, question)
    first = provider.last.body
    chat(server, scope, says("Meanwhile: my dog is called Max now."))  # would be recalled in its stead
    loop = question["messages"] + [calling, {"role": "tool", "tool_call_id": "c1", "content": "42"}]
    answer = chat(server, scope, question | {"messages": loop})
    prefix = first[: first.rindex(b"]}")]
    assert provider.last.body.startswith(prefix)
    assert answer.headers["x-reservoir-memories"] == "2"


def test_what_was_injected_is_never_stored_as_a_message(server: Server, scope: Scope, provider: FakeProvider) -> None:
    chat(server, scope, says("My dog is called Rex."))
    chat(server, scope, with_history("What is my dog called?"))
    contents = [m["content"] for m in store.messages(server, scope)]
    assert not any("<memory>" in content for content in contents)
    assert len(contents) == 2 + 4


# --- the window ---------------------------------------------------------------------------------------


def test_a_last_message_longer_than_the_window_is_refused_and_nothing_is_kept(
    server: Server, scope: Scope, provider: FakeProvider
) -> None:
    answer = chat(server, scope, says("word " * 9000))
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "context_length_exceeded")
    assert "8192" in error["message"] and "9005" in error["message"].replace(",", "")
    assert provider.requests == [] and store.messages(server, scope) == []


def test_a_history_longer_than_the_window_loses_its_oldest_turns(
    server: Server, scope: Scope, provider: FakeProvider
) -> None:
    turns = [{"role": ("user", "assistant")[i % 2], "content": f"{i} " + "word " * 1500} for i in range(8)]
    body = {"model": "gpt-4", "messages": [{"role": "system", "content": "Be nice."}, *turns, says("x")["messages"][0]]}
    assert chat(server, scope, body).status_code == 200
    sent = provider.last.messages
    assert sent[0]["role"] == "system" and sent[-1]["content"] == "x"
    assert sent[1]["role"] == "user" and 3 <= len(sent) < 9
    assert store.exchanges(server, scope)[-1]["left_out"] == [*range(10 - len(sent))], "places of its turns"


def test_an_unknown_model_is_never_cut(server: Server, scope: Scope, provider: FakeProvider) -> None:
    body = json.dumps(says("word " * 20000) | {"model": "nobody-knows-me"})
    assert chat(server, scope, body).status_code == 200
    assert provider.last.body == body.encode()


# --- streaming ----------------------------------------------------------------------------------------


def streamed(server: Server, scope: Scope, body: Any) -> tuple[bytes, list[float]]:
    """The bytes of a stream and when they came."""
    times, data = [], b""
    url = f"{server.base_url(*scope)}/chat/completions"
    with httpx.stream("POST", url, json=body, timeout=30, trust_env=False) as answer:
        for part in answer.iter_raw():
            times.append(time.monotonic())
            data += part
    return data, times


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


def test_a_stream_with_tool_calls_and_several_choices_is_kept_whole(
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
def test_a_stream_that_breaks_off_ends_with_an_error_and_is_kept_as_far_as_it_came(
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


def test_a_client_that_leaves_mid_stream_ends_the_providers_stream_and_leaves_what_came(
    server: Server, scope: Scope, provider: FakeProvider
) -> None:
    gate = Gate()
    events = stream_events("Hello there my friend")
    provider.answer(Answer(headers=[("Content-Type", "text/event-stream")], body=[*events[:3], gate, *events[3:]]))
    url = f"{server.base_url(*scope)}/chat/completions"
    with httpx.stream("POST", url, json=says("hi", stream=True), trust_env=False) as answer:
        next(answer.iter_raw())
        assert gate.reached.wait(5)
    assert provider.last.gone.wait(1), "the provider's stream stayed open"
    gate.open()
    store.wait_for_end(server, scope, "gone")
    assert store.messages(server, scope)[-1]["partial"] is True


def test_a_client_that_leaves_before_the_answer_ends_the_providers_request(
    server: Server, scope: Scope, provider: FakeProvider
) -> None:
    gate = Gate()
    provider.answer(Answer(before=[gate], body=completion("late")))
    with pytest.raises(httpx.ReadTimeout), httpx.Client(trust_env=False, timeout=0.5) as client:
        client.post(f"{server.base_url(*scope)}/chat/completions", json=says("hi"))
    assert provider.last.gone.wait(1), "the provider's request stayed open"
    gate.open()
    store.wait_for_end(server, scope, "gone")
    assert [m["content"] for m in store.messages(server, scope)] == ["hi"]


def test_an_answer_compressed_against_our_wish_is_relayed_and_kept(
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


# --- bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ("", "parse"),
        ("not json", "parse"),
        (b'{"messages": "\xff"}', "parse"),
        ("[" * 100_000, "parse"),
        ("[]", "object"),
        ("{}", "messages"),
        ('{"messages": []}', "messages"),
        ('{"messages": {}}', "messages"),
        ('{"messages": ["hi"]}', "messages[0]"),
        ('{"messages": [{"role": "user"}, {"role": 1}]}', "messages[1].role"),
        ('{"messages": [{"role": "user", "content": 5}]}', "messages[0].content"),
        ('{"messages": [{"role": "user", "content": "x"}], "model": 5}', "model"),
    ],
)
def test_a_body_that_is_no_chat_request_is_a_400_in_openais_shape(
    server: Server, scope: Scope, provider: FakeProvider, body: str | bytes, part: str
) -> None:
    answer = chat(server, scope, body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert part in error["message"] and error["type"] == "invalid_request_error"
    assert provider.requests == []


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/partition//instance/x/chat/completions", 400),
        ("/v1/partition/x/instance//chat/completions", 400),
        (f"/v1/partition/{'x' * 201}/instance/x/chat/completions", 400),
        ("/v1/partition/x/instance/a%0Ab/chat/completions", 400),
        ("/v1/partition/x/instance/%ff/chat/completions", 400),
        ("/v1/partition/x/instance/y/files/../../secret", 400),
        ("/v1/partition/x/instance/y/files/%2e%2e/secret", 400),
        ("/v1/partition/x/instance/y", 404),
        ("/v1/chat/completions", 404),
        ("/partition/x", 404),
    ],
)
def test_a_path_that_is_none_of_ours_is_refused_in_openais_shape(server: Server, path: str, status: int) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as raw:  # clients tidy paths up
        body = json.dumps(says("hi")).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        raw.sendall(head.encode() + body)
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    head_bytes, _, content = answer.partition(b"\r\n\r\n")
    assert head_bytes.startswith(b"HTTP/1.1 %d" % status), answer
    assert set(json.loads(content)["error"]) == {"message", "type", "param", "code"}


def test_percent_encoded_utf8_is_a_name(server: Server, scope: Scope) -> None:
    assert chat(server, (scope[0], "naïve 日本 😀"), says("hi")).status_code == 200
    assert len(store.messages(server, (scope[0], "naïve 日本 😀"))) == 2


def test_the_old_path_is_the_same_scope(server: Server, scope: Scope, provider: FakeProvider) -> None:
    url = f"{server.url}/partition/{scope[0]}/instance/{scope[1]}/v1/chat/completions"
    assert httpx.post(url, json=says("My dog is called Rex."), trust_env=False).status_code == 200
    chat(server, scope, says("What is my dog called?"))
    assert "Rex" in provider.last.body.decode()


def test_text_that_postgresql_cannot_hold_is_stored_all_the_same(
    server: Server, scope: Scope, provider: FakeProvider
) -> None:
    provider.answer(Answer(body=completion("nul \x00 here")))
    body = '{"model": "gpt-4", "messages": [{"role": "user", "content": "half \\ud83d, nul \\u0000"}]}'
    assert chat(server, scope, body).status_code == 200
    question, answer = store.messages(server, scope)
    assert question["payload"] == '{"role": "user", "content": "half \\ud83d, nul \\u0000"}'
    assert answer["content"] == "nul \ufffd here"


def test_a_body_over_its_limit_is_a_413(start_beside: StartServer, scope: Scope, provider: FakeProvider) -> None:
    server = start_beside({"RESERVOIR_BODY_LIMIT": "100000", "RESERVOIR_UPLOAD_LIMIT": "200000"})
    assert chat(server, scope, says("x" * 120_000)).status_code == 413
    url = f"{server.base_url(*scope)}/files"
    assert httpx.post(url, content=b"x" * 150_000, trust_env=False).status_code == 200
    for content in (b"x" * 250_000, iter([b"x" * 125_000, b"x" * 125_000])):  # with a length and without
        refused = httpx.post(url, content=content, trust_env=False)
        assert (refused.status_code, refused.json()["error"]["code"]) == (413, "request_too_large")
    assert len(provider.requests) == 1


def test_a_large_chat_is_no_html_page(server: Server, scope: Scope, provider: FakeProvider) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 5_000_000}}
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": [{"type": "text", "text": "?"}, image]}]}
    assert chat(server, scope, body).status_code == 200
    assert store.messages(server, scope)[0]["payload"] == json.dumps(body["messages"][0])


# --- who may come in ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:1"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Upgrade": "websocket", "Connection": "Upgrade"}, 400),
        ({"X-Reservoir-Recall": "perhaps"}, 400),
        ({"X-Reservoir-Budget": "-5"}, 400),
    ],
)
def test_a_request_that_may_not_come_in_is_refused_in_openais_shape(
    server: Server, scope: Scope, provider: FakeProvider, headers: dict[str, str], status: int
) -> None:
    for path in ("chat/completions", "models"):
        answer = httpx.post(f"{server.base_url(*scope)}/{path}", json=says("hi"), headers=headers, trust_env=False)
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert provider.requests == []


def test_a_listed_origin_may_come_in(start_beside: StartServer, scope: Scope) -> None:
    server = start_beside({"RESERVOIR_ALLOWED_ORIGINS": "https://app.example"})
    headers = {"Origin": "https://app.example", "Sec-Fetch-Site": "cross-site"}
    answer = httpx.post(
        f"{server.base_url(*scope)}/chat/completions", json=says("hi"), headers=headers, trust_env=False
    )
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    preflight = httpx.options(
        f"{server.base_url(*scope)}/chat/completions",
        headers=headers | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"},
        trust_env=False,
    )
    assert (preflight.status_code, preflight.headers["access-control-allow-headers"]) == (204, "authorization")


# --- everything else ----------------------------------------------------------------------------------


def test_everything_else_is_passed_through_untouched(server: Server, scope: Scope, provider: FakeProvider) -> None:
    base = server.base_url(*scope)
    with httpx.Client(trust_env=False, headers={"Accept-Encoding": "gzip, br"}) as client:
        answer = client.put(f"{base}/files/a%2Fb?x=1&y=%20", content=b"\x00\xff", headers={"X-A": "b"}).json()
        assert (answer["method"], answer["target"]) == ("PUT", "/v1/files/a%2Fb?x=1&y=%20")
        assert provider.last.body == b"\x00\xff"
        assert provider.last.header("accept-encoding") == "gzip, br"
        for method in ("GET", "DELETE", "OPTIONS", "PATCH"):
            client.request(method, f"{base}/chat/completions/id-1/messages")
            assert (provider.last.method, provider.last.target) == (method, "/v1/chat/completions/id-1/messages")
        client.get(f"{base}/chat/completions?limit=1")
        assert (provider.last.method, provider.last.target) == ("GET", "/v1/chat/completions?limit=1")
        assert client.head(f"{base}/models").status_code == 200
    assert store.messages(server, scope) == []


def test_the_model_of_a_json_body_chooses_the_provider_of_any_route(
    start_beside: StartServer, scope: Scope, provider: FakeProvider
) -> None:
    with FakeProvider() as ollama:
        server = start_beside({"RSV_OLLAMA_BASE_URL": ollama.base_url})
        body = {"model": "ollama/nomic-embed-text", "input": "x"}
        httpx.post(f"{server.base_url(*scope)}/embeddings", json=body, trust_env=False)
        assert ollama.last.json == {"model": "nomic-embed-text", "input": "x"}
        assert provider.requests == []


def test_an_upload_and_a_download_of_any_size_take_little_memory(
    start_beside: StartServer, scope: Scope, provider: FakeProvider
) -> None:
    server = start_beside()
    piece = b"x" * 2**20
    size = 200 * 2**20
    provider.answer(Answer(body=(piece for _ in range(200)), content_length=size))
    url = f"{server.base_url(*scope)}/files/big/content"
    received = 0
    with httpx.stream(
        "POST", url, content=(piece for _ in range(200)), headers={"Content-Length": str(size)}, trust_env=False
    ) as answer:
        for part in answer.iter_raw():
            received += len(part)
    assert (provider.last.size, received) == (size, size)
    assert server.process
    with Path(f"/proc/{server.process.pid}/status").open() as status:
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    assert peak < 550_000, f"{peak} KB"


# --- the database is gone -----------------------------------------------------------------------------


def test_a_query_string_is_not_logged_and_neither_is_content(
    server: Server, scope: Scope, provider: FakeProvider
) -> None:
    httpx.get(f"{server.base_url(*scope)}/models?api-key=hush-hush", trust_env=False)
    provider.answer(Answer(500, body=error_body("sk-verysecret")))
    chat(server, scope, says("never-log-this"), Authorization="Bearer sk-verysecret")
    assert not any(secret in server.log for secret in ("hush-hush", "never-log-this", "sk-verysecret"))


def test_probes_answer(server: Server) -> None:
    assert httpx.get(f"{server.url}/live", trust_env=False).json() == {"status": "live"}
    assert httpx.get(f"{server.url}/ready", trust_env=False).json()["database"] == "ready"


def test_sigterm_lets_a_running_stream_finish(start_beside: StartServer, scope: Scope, provider: FakeProvider) -> None:
    server = start_beside()
    gate = Gate()
    events = stream_events("Hello there")
    provider.answer(Answer(headers=[("Content-Type", "text/event-stream")], body=[*events[:2], gate, *events[2:]]))
    url = f"{server.base_url(*scope)}/chat/completions"
    with httpx.stream("POST", url, json=says("hi", stream=True), trust_env=False, timeout=30) as answer:
        parts = answer.iter_raw()
        data = next(parts)
        server.terminate()
        time.sleep(0.5)
        gate.open()
        data += b"".join(parts)
    assert data == b"".join(events)
    assert server.stop() is not None
    server.start()
    assert [m["content"] for m in store.messages(server, scope)] == ["hi", "Hello there"]


def test_a_wrong_setting_stops_the_start_with_a_sentence(start_server: StartServer) -> None:
    with pytest.raises(AssertionError, match="RESERVOIR_MEMORY_BUDGET is 'lots': write a whole number"):
        start_server({"RESERVOIR_MEMORY_BUDGET": "lots"})


def test_stream_answer_of_the_library_reads_to_its_end(client: OpenAI, provider: FakeProvider) -> None:
    provider.answer(stream_answer("One two three"))
    messages: list[Any] = [{"role": "user", "content": "count"}]
    stream = client.chat.completions.create(model="gpt-4", messages=messages, stream=True)
    assert "".join(part.choices[0].delta.content or "" for part in stream if part.choices) == "One two three"
