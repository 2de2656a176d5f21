"""Requests in unusual forms reach the provider, with memory where they can be read."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import httpx
import pytest

from tests.end_to_end import store
from tests.end_to_end.asking import JSON, Scope, chat, says
from tests.fake_provider.provider import FakeProvider
from tests.server import Server


def post(server: Server, scope: Scope, content: bytes, encoding: str) -> httpx.Response:
    url = f"{server.base_url(*scope)}/chat/completions"
    headers = JSON | {"Content-Encoding": encoding}
    return httpx.post(url, content=content, headers=headers, timeout=300, trust_env=False)


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_compressed_request_has_memory(
    server: Server, scope: Scope, provider: FakeProvider, encoding: str, compress: Any
) -> None:
    chat(server, scope, says("My dog is called Rex."))
    answer = post(server, scope, compress(json.dumps(says("What is my dog called?")).encode()), encoding)
    assert (answer.status_code, answer.headers["x-reservoir-memory"]) == (200, "on")
    assert "Rex" in provider.last.body.decode()
    assert len(store.messages(server, scope)) == 4


@pytest.mark.parametrize("body", [b"no gzip", gzip.compress(b"{}" * 100)[:-9]], ids=["no gzip", "cut off"])
def test_a_damaged_compressed_request_is_refused(server: Server, scope: Scope, body: bytes) -> None:
    answer = post(server, scope, body, "gzip")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_encoding")


def test_a_small_request_that_expands_without_end_is_refused(server: Server, scope: Scope) -> None:
    assert post(server, scope, gzip.compress(b" " * 2**26), "gzip").status_code == 413


def test_an_encoding_that_cannot_be_read_is_passed_on(server: Server, scope: Scope, provider: FakeProvider) -> None:
    answer = post(server, scope, b"\x28\xb5\x2f\xfd", "zstd")
    assert answer.headers["x-reservoir-memory"] == "off"
    assert provider.last.body == b"\x28\xb5\x2f\xfd"


def test_a_byte_order_mark_is_read_over_and_passed_on(server: Server, scope: Scope, provider: FakeProvider) -> None:
    body = b"\xef\xbb\xbf" + json.dumps(says("hi")).encode()
    answer = chat(server, scope, body)
    assert (answer.status_code, answer.headers["x-reservoir-memory"]) == (200, "on")
    assert provider.last.body == body


@pytest.mark.parametrize(
    "content", [["one", {"type": "text", "text": "two"}], [None, 1], [{"odd": 1}], 5, True, {"text": "x"}]
)
def test_parts_of_any_type_are_the_providers_to_judge(
    server: Server, scope: Scope, provider: FakeProvider, content: Any
) -> None:
    body = json.dumps({"model": "gpt-4", "messages": [{"role": "user", "content": content}]}).encode()
    chat(server, scope, body)
    assert provider.last.body == body
    assert store.messages(server, scope)[0]["role"] == "user"
