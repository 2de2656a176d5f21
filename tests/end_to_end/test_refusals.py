"""Refusals in OpenAI's shape, and odd names and texts that are accepted."""

from __future__ import annotations

import json
import socket

import httpx
import pytest

from tests.end_to_end import store
from tests.end_to_end.asking import Scope, chat, says
from tests.end_to_end.conftest import StartServer
from tests.fake_provider.answers import Answer, completion
from tests.fake_provider.provider import FakeProvider
from tests.server import Server

# --- bad input ---------------------------------------------------------------------------------------


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
        ('{"messages": [{"role": "user", "content": "x"}], "model": 5}', "model"),
    ],
)
def test_a_body_that_is_not_a_chat_request_is_a_400_in_openais_shape(
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
def test_an_unknown_path_is_refused_in_openais_shape(server: Server, path: str, status: int) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as raw:  # clients normalize paths
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


def test_text_that_postgresql_cannot_hold_is_stored_nevertheless(
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


def test_a_large_chat_is_not_refused_with_an_html_page(server: Server, scope: Scope, provider: FakeProvider) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 5_000_000}}
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": [{"type": "text", "text": "?"}, image]}]}
    assert chat(server, scope, body).status_code == 200
    assert store.messages(server, scope)[0]["payload"] == json.dumps(body["messages"][0])


# --- who is admitted ---------------------------------------------------------------------------------


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
def test_a_forbidden_request_is_refused_in_openais_shape(
    server: Server, scope: Scope, provider: FakeProvider, headers: dict[str, str], status: int
) -> None:
    for path in ("chat/completions", "models"):
        answer = httpx.post(f"{server.base_url(*scope)}/{path}", json=says("hi"), headers=headers, trust_env=False)
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert provider.requests == []


def test_requests_of_a_listed_origin_are_admitted(start_beside: StartServer, scope: Scope) -> None:
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
