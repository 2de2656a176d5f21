"""Odd requests and odd answers: each ends in a clear error, or is relayed unchanged and stored."""

from __future__ import annotations

import json
import socket
from typing import Any

import httpx
import pytest

from tests.end_to_end import store
from tests.end_to_end.conftest import StartServer
from tests.fake_provider.answers import Answer, chunk, error_body, event
from tests.fake_provider.provider import FakeProvider
from tests.server import Server

Scope = tuple[str, str]
SHAPE = {"message", "type", "param", "code"}


def chat(server: Server, scope: Scope, *messages: dict[str, Any], **more: Any) -> httpx.Response:
    url = f"{server.base_url(*scope)}/chat/completions"
    body = {"model": "gpt-4", "messages": messages, **more}
    return httpx.post(url, json=body, timeout=300, trust_env=False)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


# --- requests -----------------------------------------------------------------------------------------


def test_a_percent_encoded_prefix_does_not_lead_past_the_guard(server: Server, provider: FakeProvider) -> None:
    path = "/%761/partition/x/instance/y/chat/completions"
    with socket.create_connection(("127.0.0.1", server.port)) as raw:  # clients normalize paths
        raw.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 404")
    assert set(json.loads(answer.partition(b"\r\n\r\n")[2])["error"]) == SHAPE


def test_an_origin_that_is_not_a_url_is_foreign(server: Server, scope: Scope, provider: FakeProvider) -> None:
    answer = httpx.get(f"{server.base_url(*scope)}/models", headers={"Origin": "http://["}, trust_env=False)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_not_allowed")
    assert provider.requests == []


def test_off_wins_when_a_header_is_sent_twice(server: Server, scope: Scope, provider: FakeProvider) -> None:
    chat(server, scope, user("My dog is called Rex."))
    twice = [(name, word) for name in ("X-Reservoir-Recall", "X-Reservoir-Store") for word in ("off", "on")]
    body = {"model": "gpt-4", "messages": [user("What is my dog called?")]}
    url = f"{server.base_url(*scope)}/chat/completions"
    answer = httpx.post(url, json=body, headers=twice, trust_env=False)
    assert answer.headers["x-reservoir-memory"] == "off"
    assert "Rex" not in provider.last.body.decode()
    assert len(store.messages(server, scope)) == 2


def test_a_request_with_values_of_odd_types_is_stored(server: Server, scope: Scope, provider: FakeProvider) -> None:
    odd = {"role": "assistant", "content": "x", "tool_calls": 5}
    answer = chat(server, scope, odd, user("hi"))
    assert answer.headers["x-reservoir-memory"] == "on"
    assert json.loads(store.messages(server, scope)[0]["payload"]) == odd


@pytest.mark.parametrize("body", [b'{"model": "ollama/x", "input": NaN}', '{"model": "ollama/x"}'.encode("utf-16")])
def test_a_body_whose_model_cannot_be_renamed_is_a_400_in_openais_shape(
    start_beside: StartServer, scope: Scope, provider: FakeProvider, body: bytes
) -> None:
    server = start_beside({"RSV_OLLAMA_BASE_URL": provider.base_url})
    headers = {"Content-Type": "application/json"}
    answer = httpx.post(f"{server.base_url(*scope)}/embeddings", content=body, headers=headers, trust_env=False)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")
    assert provider.requests == []


def test_the_text_beside_an_image_is_not_added_twice(server: Server, scope: Scope, provider: FakeProvider) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    chat(server, scope, user([{"type": "text", "text": "This is my dog Rex."}, image]))
    chat(server, scope, user("What is my dog called?"))
    assert provider.last.body.decode().count("This is my dog Rex.") == 2  # the turn and its answer


# --- answers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "usage"),
    [
        ({"content": "x", "tool_calls": 5}, {}),
        ({"content": 5}, {}),
        ({"content": "x"}, {"prompt_tokens": True, "completion_tokens": 1.5}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_with_values_of_odd_types_is_relayed_unchanged(
    server: Server, scope: Scope, provider: FakeProvider, message: dict[str, Any], usage: dict[str, Any], stream: bool
) -> None:
    events = [chunk(message, finish="stop", usage=usage), event("[DONE]")]
    streamed = Answer(headers=[("Content-Type", "text/event-stream")], body=events)
    whole = json.dumps({"choices": [{"index": 0, "message": message}], "usage": usage}).encode()
    provider.answer(streamed if stream else Answer(body=whole))
    answer = chat(server, scope, user("hi"), stream=stream)
    assert (answer.status_code, answer.content) == (200, b"".join(events) if stream else whole)
    assert store.exchanges(server, scope)[0]["ended"] == "answered"


def test_an_invalid_http_status_is_a_502(server: Server, scope: Scope, provider: FakeProvider) -> None:
    provider.answer(Answer(999))
    answer = chat(server, scope, user("hi"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "provider_unreachable")


def test_a_providers_error_is_not_logged_as_ours(server: Server, scope: Scope, provider: FakeProvider) -> None:
    provider.answer(Answer(500, body=error_body("No.")))
    assert chat(server, scope, user("hi")).status_code == 500
    assert not [line for line in server.log.splitlines() if "ERROR" in line and scope[0] in line]
