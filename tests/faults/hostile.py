"""Inputs that are ordinary to send and were costly to take, for benchmarks/hostile.py and test_stalls.py."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Callable
from contextlib import suppress

import httpx

from tests.fake_provider.answers import Answer
from tests.fake_provider.provider import FakeProvider
from tests.server import Server

SCOPE = ("faults", "hostile")
SECONDS = 300.0
EVENTS = (("Content-Type", "text/event-stream"),)
GZIP = (("Content-Encoding", "gzip"),)


def form(server: Server, provider: FakeProvider) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=a"}
    body = b"--a\r\n" * 13_000 + b"--a--\r\n"
    httpx.post(f"{server.base_url(*SCOPE)}/files", content=body, headers=headers, trust_env=False, timeout=SECONDS)


def header_fields(server: Server, provider: FakeProvider) -> None:
    head = f"GET /v1/partition/{SCOPE[0]}/instance/{SCOPE[1]}/models HTTP/1.1\r\nHost: localhost\r\n"
    fields = "".join("a: b\r\n" for _ in range(4_000))
    with socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) as raw:
        raw.sendall(f"{head}{fields}Connection: close\r\n\r\n".encode())
        while raw.recv(65536):
            pass


def one_long_field(server: Server, provider: FakeProvider) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) as raw:
        raw.sendall(b"GET /live HTTP/1.1\r\nHost: localhost\r\nA: " + b"b" * 8_000_000)
        raw.recv(65536)


def chat(server: Server, *, stream: bool) -> None:
    body = json.dumps({"model": "gpt-4", "stream": stream, "messages": [{"role": "user", "content": "hi"}]})
    url = f"{server.base_url(*SCOPE)}/chat/completions"
    headers = {"X-Reservoir-Store": "off"}
    with httpx.stream("POST", url, content=body, headers=headers, trust_env=False, timeout=SECONDS) as answer:
        for _ in answer.iter_raw():
            pass


def newlines(server: Server, provider: FakeProvider) -> None:
    provider.answer(Answer(headers=EVENTS, body=b"\n" * 8_000_000))
    chat(server, stream=True)


def data_lines(server: Server, provider: FakeProvider) -> None:
    provider.answer(Answer(headers=EVENTS, body=b"data:\n" * 1_000_000))
    chat(server, stream=True)


def empty_events(server: Server, provider: FakeProvider) -> None:
    provider.answer(Answer(headers=EVENTS, body=b"data:{}\n\n" * 500_000))
    chat(server, stream=True)


def packed_newlines(server: Server, provider: FakeProvider) -> None:
    provider.answer(Answer(headers=EVENTS + GZIP, body=gzip.compress(b"\n" * 64_000_000)))
    chat(server, stream=True)


def packed_stream(server: Server, provider: FakeProvider) -> None:
    provider.answer(Answer(headers=EVENTS + GZIP, body=gzip.compress(b"data:{}\n\n" * 4_000_000)))
    chat(server, stream=True)


def packed_whole(server: Server, provider: FakeProvider) -> None:
    provider.answer(Answer(headers=(("Content-Type", "application/json"), *GZIP), body=gzip.compress(b" " * 2**28)))
    chat(server, stream=False)


def asked(server: Server, message: bytes, *, path: str = "chat/completions") -> None:
    body = b'{"model": "gpt-4", "messages": [{"role": "user", "content": ' + message + b"}]}"
    headers = {"Content-Type": "application/json", "X-Reservoir-Store": "off"}
    httpx.post(f"{server.base_url(*SCOPE)}/{path}", content=body, headers=headers, trust_env=False, timeout=SECONDS)


def json_values(server: Server, provider: FakeProvider) -> None:
    asked(server, b"[" + b"{}," * 10_000_000 + b"{}]")


def json_just_allowed(server: Server, provider: FakeProvider) -> None:
    asked(server, b"[" + b"{}," * 48_000 + b"{}]")


def json_keys(server: Server, provider: FakeProvider) -> None:
    asked(server, b"[{" + b",".join(b'"%d":1' % number for number in range(90_000)) + b"}]")


def json_escapes(server: Server, provider: FakeProvider) -> None:
    asked(server, b'"' + rb"\n" * 15_000_000 + b'"')


def json_text(server: Server, provider: FakeProvider) -> None:
    asked(server, b'"' + b"many words " * 2_800_000 + b'"')


def json_packed(server: Server, provider: FakeProvider) -> None:
    body = gzip.compress(b'{"model": "gpt-4", "messages": [' + b" " * 33_000_000 + b"]}")
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    url = f"{server.base_url(*SCOPE)}/chat/completions"
    httpx.post(url, content=body, headers=headers, trust_env=False, timeout=SECONDS)


def json_embeddings(server: Server, provider: FakeProvider) -> None:
    asked(server, b"[" + b"[]," * 10_000_000 + b"[]]", path="embeddings")


def json_history(server: Server, provider: FakeProvider) -> None:
    turn = b'Hi"}, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "'
    asked(server, b'"' + turn * 10_000 + b'."')


KINDS: dict[str, Callable[[Server, FakeProvider], None]] = {
    "a form of 65 kB of boundaries": form,
    "4,000 header fields": header_fields,
    "a header field of 8 MB": one_long_field,
    "an event stream of 8 MB of newlines": newlines,
    "an event of 1,000,000 empty lines of data": data_lines,
    "500,000 empty events": empty_events,
    "64 MB of newlines, compressed": packed_newlines,
    "4,000,000 empty events, compressed": packed_stream,
    "256 MB of spaces, compressed": packed_whole,
    "JSON of 10,000,000 values": json_values,
    "JSON of 48,000 values in one message": json_just_allowed,
    "JSON of 90,000 keys": json_keys,
    "JSON of 15,000,000 escapes": json_escapes,
    "JSON with a text of 30 MB": json_text,
    "JSON of 20,000 turns": json_history,
    "JSON of 33 MB of spaces, compressed": json_packed,
    "JSON of 10,000,000 values, passed through": json_embeddings,
}


def feed(kind: str, server: Server, provider: FakeProvider) -> None:
    """Feed the input to the server. That it is refused or cut does not matter."""
    with suppress(OSError, httpx.HTTPError):
        KINDS[kind](server, provider)
