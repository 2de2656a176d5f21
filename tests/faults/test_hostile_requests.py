"""Whatever a client or a provider sends, no answer is 500, and none fails to come."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.core.result import Ok

from tests.fake_provider.answers import Answer, completion
from tests.fake_provider.provider import FakeProvider
from tests.server import Server

SCOPE = ("hostile", "client")
BASE = "/v1/partition/hostile/instance/client"
MANY = 1_500  # requests of wild parts
RAW = 500  # byte strings that hardly are requests
DEEP = "[" * 30_000
PARSED = ("chat/completions", "recall")
ROUTES = (
    *(f"{BASE}/{path}" for path in (*PARSED, "embeddings", "models", "models/a", "command/view/5", "command/search/5")),
    *(f"/v1/memory/{path}" for path in ("partitions", "instances", "messages", "nearest", "export", "messages/1")),
    "/v1/memory/exchanges/00000000-0000-0000-0000-000000000000",
    "/v1/docs",
    "/ready",
    "/admin/",
    "/admin/login/",
)


def send(server: Server, request: bytes, *, leave: bool = False) -> bytes:
    """What the server answers to these bytes until it closes the connection; with `leave` we end our side first."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=300) as raw:
        raw.sendall(request)
        if leave:
            raw.shutdown(socket.SHUT_WR)
        try:
            return b"".join(iter(lambda: raw.recv(65536), b""))
        except ConnectionError:
            return b""


def head(method: str, target: str, *fields: str) -> bytes:
    return "\r\n".join(
        [f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close", *fields, "\r\n"]
    ).encode()


def status(answer: bytes) -> int:
    """The status of an answer; fails when there is none."""
    assert answer.startswith(b"HTTP/1.1 "), answer[:100]
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize("path", ["/v1/memory/messages", f"{BASE}/recall", f"{BASE}/command/search/5", "/admin/login/"])
def test_a_thousand_and_one_parameters_are_refused_or_ignored(server: Server, path: str) -> None:
    query = "&".join(f"p{number}=1" for number in range(1_001))
    assert status(send(server, head("GET", f"{path}?{query}"))) < 500


@pytest.mark.parametrize("path", PARSED)
@pytest.mark.parametrize(
    "content", [DEEP, DEEP + "]" * 30_000, '"\\ud83d"', '"\\u0000"', '"a\\u0000b\\udc00"', "1e999", "-" * 30_000]
)
def test_odd_json_is_refused_or_taken(server: Server, path: str, content: str) -> None:
    for body in (
        content,
        f'{{"query": {content}}}',
        f'{{"messages": {content}}}',
        f'{{"model": {content}, "messages": [{{"role": "user", "content": "Hi"}}]}}',
        f'{{"model": "gpt-4", "messages": [{{"role": "user", "content": {content}}}], "user": {content}}}',
    ):
        answer = httpx.post(f"{server.base_url(*SCOPE)}/{path}", content=body, trust_env=False)
        assert answer.status_code in (200, 400)


@pytest.mark.parametrize("boundary", ["*=utf-8''%ff", "*0*=x''%ff", '="', "=" + "a" * 600, "*=''", ""])
def test_an_odd_boundary_is_passed_on(server: Server, boundary: str) -> None:
    kind = f"multipart/form-data; boundary{boundary}"
    answer = httpx.post(
        f"{server.base_url(*SCOPE)}/files", content=b"--a\r\n", headers={"Content-Type": kind}, trust_env=False
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["object"] == "echo"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/1.1 200 \xff\xfe",
        b"HTTP/1.1 200 " + b"a" * 4_000,
        b"HTTP/1.1 200 OK\r\nX-Bytes: \xff\xfe\x80",
        b"HTTP/1.1 200 OK\r\nX-Bytes: \xe4\xb8",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\nX-Bell: \x07",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade",
        b"HTTP/1.1 999 What",
        b"HTTP/1.1 099 What",
        b"HTTP/9.9 200 OK",
    ],
)
def test_a_provider_with_an_odd_head_is_relayed_or_a_bad_gateway(
    server: Server, provider: FakeProvider, line: bytes, stream: bool
) -> None:
    body = completion("Hello")
    whole = b"%s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (line, len(body), body)
    for path in ("chat/completions", "embeddings"):
        provider.answer(Answer(framing="none", body=[whole]))
        chat = {"model": "gpt-4", "stream": stream, "messages": [{"role": "user", "content": "Hi"}]}
        answer = httpx.post(f"{server.base_url(*SCOPE)}/{path}", json=chat, trust_env=False)
        assert answer.status_code in (200, 502)
        if answer.status_code == 502:
            assert answer.json()["error"]["code"] == "provider_unreachable"


# --- wild inputs ----------------------------------------------------------------------------------------

odd_text = st.text(max_size=30) | st.sampled_from(
    ["\x00", "\ud83d", "1e999", "[" * 3_000, "..", "../../etc/passwd", "%", "%00", "%ff", "'; DROP", "9" * 500, "-1"]
)
PARAMETERS = (
    "partition instance limit cursor search term text since before role id larger_than dry_run query budget q page o "
    "semantic embeddings next window"
)
FIELDS = (
    "Content-Type Accept Authorization X-Reservoir-Recall X-Reservoir-Budget X-Reservoir-Odd Cookie Range Expect "
    "Content-Encoding Origin Sec-Fetch-Site If-None-Match X-Forwarded-For Forwarded"
)
names, fields = st.sampled_from(PARAMETERS.split()), st.sampled_from(FIELDS.split())
keys = st.sampled_from("model messages role content name tool_calls stream query type".split())  # noqa: SIM905
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | odd_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)
turn = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool", ""]), "content": json_values}
)
bodies = (
    st.just(b"")
    | st.binary(max_size=200)
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries(
        {"model": odd_text, "messages": st.lists(turn, max_size=4)},
        optional={"stream": st.booleans(), "x": json_values},
    ).map(lambda value: json.dumps(value).encode())
)


def escaped(text: str) -> str:
    return quote(text.encode("utf-8", "surrogatepass"), safe="")


@settings(max_examples=MANY, suppress_health_check=list(HealthCheck))
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "PATCH", "OPTIONS", "HEAD"]),  # DELETE is tried by its schema
    path=st.sampled_from(ROUTES) | odd_text.map(lambda text: f"/v1/partition/{escaped(text)}/instance/x/recall"),
    query=st.lists(st.tuples(names, odd_text), max_size=4),
    header=st.dictionaries(
        fields, st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=20), max_size=3
    ),
    body=bodies,
)
def test_no_wild_request_is_answered_with_500(
    server_of_file: Server,
    method: str,
    path: str,
    query: list[tuple[str, str]],
    header: dict[str, str],
    body: bytes,
) -> None:
    target = f"{path}?{'&'.join(f'{name}={escaped(value)}' for name, value in query)}"
    lines = b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in header.items())
    first = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
    found = status(send(server_of_file, first.encode() + lines + b"\r\n" + body))
    assert found < 500 or found == 502, server_of_file.log[-2000:]


@settings(max_examples=RAW, suppress_health_check=list(HealthCheck))
@given(
    st.binary(max_size=300)
    | st.binary(max_size=100).map(lambda odd: b"GET /" + odd + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
    | st.binary(max_size=100).map(lambda odd: b"GET /live HTTP/1.1\r\nHost: localhost\r\n" + odd + b"\r\n\r\n")
)
def test_no_bytes_whatever_are_answered_with_500(server_of_file: Server, request_bytes: bytes) -> None:
    answer = send(server_of_file, request_bytes, leave=True)
    assert not answer.startswith(b"HTTP/1.1 500"), server_of_file.log[-2000:]
    assert server_of_file.is_running


def operations(server: Server) -> list[Any]:
    schema = schemathesis.openapi.from_url(f"{server.url}/v1/openapi.json")
    return [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]


def test_no_request_that_the_document_describes_is_answered_with_500(server: Server) -> None:
    found = operations(server)
    assert len(found) > 15
    for operation in found:
        trial(server, operation)()


def trial(server: Server, operation: Any) -> Callable[[], None]:
    @settings(max_examples=10, suppress_health_check=list(HealthCheck), database=None)
    @given(case=operation.as_strategy())
    def one(case: Any) -> None:
        answer = case.call(base_url=server.url, timeout=300)
        assert answer.status_code < 500, (operation.label, answer.status_code, server.log[-2000:])

    return one
