"""Whatever the provider does, OpenAI's library understands the answer, and storage shows how the exchange ended."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from tests.fake_provider.answers import (
    Answer,
    Cut,
    Gate,
    Pause,
    chunk,
    completion,
    error_body,
    event,
    pieces_of,
    stream_answer,
    stream_events,
)
from tests.fake_provider.provider import FakeProvider, black_hole
from tests.faults.stored import rows
from tests.faults.watching import eventually, resident
from tests.server import Server

pytestmark = pytest.mark.alone

TEXT = "Grüße aus 日本 🦉 und zurück"
SSE = [("Content-Type", "text/event-stream")]
JSON = [("Content-Type", "application/json")]
LONG = 100 * 2**20

Scope = tuple[str, str]
SETTINGS = {"RESERVOIR_READ_SECONDS": "1", "RESERVOIR_CONNECT_SECONDS": "1"}


@dataclass
class Outcome:
    """What the library returns: the text that arrived, and the error at its end."""

    text: str = ""
    error: type[Exception] | None = None
    exception: Any = None


@pytest.fixture
def roomy(provider: FakeProvider, tmp_path: Path) -> Iterator[Server]:
    """A server for this test only: a message of 32 MB is still being embedded long after its answer."""
    with Server(tmp_path / "reservoir", provider.base_url) as server:
        yield server


@pytest.fixture
def scope(request: pytest.FixtureRequest) -> Scope:
    return ("misbehaving", f"{time.time_ns()}")


def ask(server: Server, scope: Scope, *, stream: bool) -> Outcome:
    """Ask through OpenAI's library."""
    outcome = Outcome()
    with OpenAI(base_url=server.base_url(*scope), api_key="sk-client", max_retries=0, timeout=300) as client:
        messages: Any = [{"role": "user", "content": "hello"}]
        try:
            if not stream:
                answer = client.chat.completions.create(model="gpt-4", messages=messages)
                outcome.text = answer.choices[0].message.content or ""
                return outcome
            for part in client.chat.completions.create(model="gpt-4", messages=messages, stream=True):
                outcome.text += (part.choices[0].delta.content or "") if part.choices else ""
        except Exception as error:
            outcome.error, outcome.exception = type(error), error
    return outcome


def kept(server: Server, scope: Scope) -> tuple[str, str, str | None]:
    """The scope's exchange: how it ended, its error, and the answer's text."""
    query = """SELECT e.ended, e.error, (SELECT string_agg(m.content, '|') FROM conversations_message m
                                         WHERE m.exchange_id = e.id AND m.role = 'assistant')
               FROM conversations_exchange e JOIN conversations_instance i ON i.id = e.instance_id WHERE i.name = %s"""
    eventually(lambda: [row[0] for row in rows(server.home, query, scope[1])] not in ([], ["open"]))
    ((ended, error, text),) = rows(server.home, query, scope[1])
    return ended, error, text


EVENTS = stream_events(TEXT)
HALF = b"".join(EVENTS[:4])
HALF_TEXT = "Grüße aus 日本"

# name: (answer, streamed, what the user gets, the error it ends with, how it is stored, the text that is stored)
CASES: dict[str, tuple[Callable[[], Answer], bool, str, type[Exception] | None, str, str | None]] = {
    "reset before an answer": (
        lambda: Answer(before=[Cut.RST], framing="none", body=[]),
        False, "", openai.InternalServerError, "failed", None,
    ),
    "closed before an answer": (
        lambda: Answer(before=[Cut.FIN], framing="none", body=[]),
        True, "", openai.InternalServerError, "failed", None,
    ),
    "no http at all": (
        lambda: Answer(framing="none", body=[b"220 mail.example.com ESMTP\r\n", Cut.FIN]),
        False, "", openai.InternalServerError, "failed", None,
    ),
    "hung before headers": (
        lambda: Answer(before=[Gate()]),
        False, "", openai.InternalServerError, "failed", None,
    ),
    "hung after headers": (
        lambda: Answer(200, JSON, [b'{"id"', Gate()]),
        False, "", openai.InternalServerError, "failed", None,
    ),
    "a stream that hangs": (
        lambda: Answer(200, SSE, [HALF, Gate()]),
        True, HALF_TEXT, openai.APIError, "cut", HALF_TEXT,
    ),
    "half a body": (
        lambda: Answer(200, JSON, [completion(TEXT)[:60], Cut.FIN], content_length=500, framing="length"),
        False, "", openai.InternalServerError, "failed", None,
    ),
    "half a stream": (
        lambda: Answer(200, SSE, [HALF, Cut.RST]),
        True, HALF_TEXT, openai.APIError, "cut", HALF_TEXT,
    ),
    "half an event": (
        lambda: Answer(200, SSE, [HALF + EVENTS[4][:30], Cut.FIN]),
        True, HALF_TEXT, openai.APIError, "cut", HALF_TEXT,
    ),
    "half a stream of a stated length": (
        lambda: Answer(200, SSE, [HALF, Cut.FIN], content_length=5000, framing="length"),
        True, HALF_TEXT, openai.APIError, "cut", HALF_TEXT,
    ),
    "comments between the events": (
        lambda: Answer(200, SSE, [EVENTS[0], b": a comment\n\n", b": OPENROUTER PROCESSING\n\n", *EVENTS[1:]]),
        True, TEXT, None, "answered", TEXT,
    ),
    "broken json in an event": (
        lambda: Answer(200, SSE, [EVENTS[0], event("{broken"), *EVENTS[1:]]),
        True, "", json.JSONDecodeError, "answered", TEXT,
    ),
    "split at every byte": (lambda: stream_answer(TEXT, split=1), True, TEXT, None, "answered", TEXT),
    "no [DONE], but a finish reason": (lambda: stream_answer(TEXT, done=False), True, TEXT, None, "answered", TEXT),
    "neither [DONE] nor a finish reason": (
        lambda: Answer(200, SSE, [HALF]),
        True, HALF_TEXT, None, "cut", HALF_TEXT,
    ),
    "an error frame mid-stream": (
        lambda: Answer(200, SSE, [HALF, b"data: " + error_body("Overheated.", kind="server_error") + b"\n\n"]),
        True, HALF_TEXT, openai.APIError, "cut", HALF_TEXT,
    ),
    "a rate limit": (
        lambda: Answer(429, [*JSON, ("Retry-After", "7")], error_body("Slow down.", code="rate_limit_exceeded")),
        False, "", openai.RateLimitError, "failed", None,
    ),
    "a rate limit for a stream": (
        lambda: Answer(429, [*JSON, ("Retry-After", "7")], error_body("Slow down.", code="rate_limit_exceeded")),
        True, "", openai.RateLimitError, "failed", None,
    ),
    "an error in html": (
        lambda: Answer(500, [("Content-Type", "text/html")], b"<html><h1>Oops</h1></html>"),
        False, "", openai.InternalServerError, "failed", None,
    ),
    # It is chance whether the surplus is noticed in time: the library gets truncated JSON, or 502.
    "a length too short": (
        lambda: Answer(200, JSON, [completion(TEXT)], content_length=40, framing="length"),
        False, "", Exception, "failed", None,
    ),
    "a length too long": (
        lambda: Answer(200, JSON, [completion(TEXT), Cut.FIN], content_length=9999, framing="length"),
        False, "", openai.InternalServerError, "failed", None,
    ),
    "gzip against our wish": (
        lambda: Answer(200, [*JSON, ("Content-Encoding", "gzip")], gzip.compress(completion(TEXT))),
        False, TEXT, None, "answered", TEXT,
    ),
    "half a gzipped stream": (
        lambda: Answer(200, [*SSE, ("Content-Encoding", "gzip")], [gzip.compress(HALF * 9, 0)[:900], Cut.RST]),
        True, "Grüße aus", openai.APIConnectionError, "cut", None,
    ),
    "http 1.0": (lambda: Answer(200, JSON, completion(TEXT), http="HTTP/1.0", framing="close"), False, TEXT, None,
                 "answered", TEXT),
    "a stream in http 1.0": (
        lambda: Answer(200, SSE, EVENTS, http="HTTP/1.0"), True, TEXT, None, "answered", TEXT,
    ),
    "a slow drip": (
        lambda: Answer(200, SSE, [p for b in pieces_of(b"".join(EVENTS), 40) for p in (b, Pause(0.02))]),
        True, TEXT, None, "answered", TEXT,
    ),
    "a body that drips": (
        lambda: Answer(200, JSON, [p for b in pieces_of(completion(TEXT), 20) for p in (b, Pause(0.02))]),
        False, TEXT, None, "answered", TEXT,
    ),
    "an empty body": (lambda: Answer(200, JSON, b""), False, "", None, "failed", None),
    "json that is no answer": (lambda: Answer(200, JSON, b'{"choices": "none"}'), False, "", None, "failed", None),
    "a role and no words": (
        lambda: Answer(200, SSE, [chunk({"role": "assistant"}), chunk({}, finish="stop"), event("[DONE]")]),
        True, "", None, "answered", None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_clients_and_storage_get_a_providers_faults_as_the_library_expects(
    name: str, server: Server, provider: FakeProvider, scope: Scope
) -> None:
    make, stream, text, error, ended, stored = CASES[name]
    provider.answer(make())
    outcome = ask(server, scope, stream=stream)
    if name not in ("an empty body", "json that is no answer"):  # how the library handles those does not matter here
        assert outcome.text == text
        assert outcome.error is error or (error and issubclass(outcome.error or int, error)), repr(outcome.exception)
    if isinstance(outcome.exception, openai.RateLimitError):
        assert outcome.exception.response.headers["retry-after"] == "7"
    was, why, kept_text = kept(server, scope)
    assert was == ended, why
    if stored is not None:
        assert kept_text == stored
    # The server has released everything and serves the next request.
    last = provider.last
    eventually(lambda: last.gone.is_set() or last.finished.is_set() or last.sent == 0 or ended != "answered")
    assert ask(server, (scope[0], scope[1] + "-next"), stream=stream).text == "You said: hello"


def test_a_provider_that_does_not_accept_connections_is_a_504_in_time(
    provider: FakeProvider, tmp_path: Path, server: Server, scope: Scope
) -> None:
    """A second server on the same PostgreSQL has a black hole as its provider."""
    with black_hole() as port:
        settings = {"RESERVOIR_CONNECT_SECONDS": "1"}
        with Server(server.home, f"http://127.0.0.1:{port}/v1", settings=settings) as lost:
            outcome = ask(lost, scope, stream=True)
            assert outcome.exception.status_code == 504
            assert kept(server, scope)[0] == "failed"


def test_an_answer_of_a_hundred_megabytes_needs_little_memory_and_is_marked(
    roomy: Server, provider: FakeProvider, scope: Scope
) -> None:
    begin, end = completion("@").split(b"@")
    body = [begin, *(b"x" * 2**20 for _ in range(LONG // 2**20)), end]
    provider.answer(Answer(200, JSON, body))
    assert roomy.process
    before = resident(roomy.process.pid)
    size, last = 0, b""
    url = f"{roomy.base_url(*scope)}/chat/completions"
    request = {"model": "gpt-4", "messages": [{"role": "user", "content": "hello"}]}
    with httpx.stream("POST", url, json=request, trust_env=False, timeout=300) as answer:
        for data in answer.iter_raw():
            size, last = size + len(data), data
    assert size == len(begin) + LONG + len(end) and last.endswith(end)
    assert resident(roomy.process.pid) - before < 150 * 2**20
    ended, why, _ = kept(roomy, scope)
    assert (ended, "larger than" in why) == ("answered", True)


def test_a_stream_of_a_hundred_megabytes_needs_little_memory_and_is_marked(
    roomy: Server, provider: FakeProvider, scope: Scope
) -> None:
    part = chunk({"content": "many words " * 2**15})
    provider.answer(
        Answer(200, SSE, [*(part for _ in range(LONG // (11 * 2**15))), chunk({}, finish="stop"), event("[DONE]")])
    )
    assert roomy.process
    before = resident(roomy.process.pid)
    size = 0
    url = f"{roomy.base_url(*scope)}/chat/completions"
    request = {"model": "gpt-4", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
    with httpx.stream("POST", url, json=request, trust_env=False, timeout=300) as answer:
        for data in answer.iter_raw():
            size += len(data)
    assert size > LONG - 2**20
    assert resident(roomy.process.pid) - before < 800 * 2**20  # a copy of 32 MB is kept, and a dozen while it is stored
    ended, why, _ = kept(roomy, scope)
    assert (ended, "larger than" in why) == ("answered", True)
