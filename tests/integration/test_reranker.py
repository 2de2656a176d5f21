"""A reranker against a real HTTP server, and recall with it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from django.conf import LazySettings
from django.utils import timezone

from conversations.embedding import configured_embedder
from conversations.messages import add_messages
from conversations.querysets import Scope
from conversations.reranker import Reranker, RerankerError
from conversations.turns import Turn
from proxy.dialects.chat_completions.request import decode
from proxy.memory.recollection import RecallRequest, recollect

SECRET = "sk-very-secret"
TEXT = "what the user said"


class Endpoint(ThreadingHTTPServer):
    """Sends what `answer` makes of each request's JSON, in pieces; records the requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.status = 200
        self.answer: Callable[[dict[str, Any]], Iterator[bytes]] = in_jinas_form

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1/rerank"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Endpoint)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.headers.get("Authorization", ""), body))
        self.send_response(self.server.status)
        self.end_headers()
        try:
            for piece in self.server.answer(body):
                self.wfile.write(piece)
                self.wfile.flush()
        except (BrokenPipeError, ConnectionResetError):
            pass

    def log_message(self, *_: object) -> None:
        pass


def in_jinas_form(body: dict[str, Any]) -> Iterator[bytes]:
    """The shorter a text, the better; the best first, as Cohere, Jina and vLLM answer."""
    rows = [{"index": i, "relevance_score": -len(text)} for i, text in enumerate(body["documents"])]
    rows.sort(key=lambda row: -row["relevance_score"])
    yield json.dumps({"model": body["model"], "results": rows}).encode()


def in_voyages_form(body: dict[str, Any]) -> Iterator[bytes]:
    rows = [{"index": i, "relevance_score": -len(text)} for i, text in enumerate(body["documents"])]
    yield json.dumps({"object": "list", "data": rows}).encode()


def in_the_form_of_text_embeddings_inference(body: dict[str, Any]) -> Iterator[bytes]:
    rows = [{"index": i, "score": -len(text)} for i, text in enumerate(body["texts"])]
    yield json.dumps(rows[::-1]).encode()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize("form", [in_jinas_form, in_voyages_form])
def test_an_endpoint_with_a_model_is_asked_for_documents(
    endpoint: Endpoint, form: Callable[[dict[str, Any]], Iterator[bytes]]
) -> None:
    endpoint.answer = form
    reranker = Reranker(f"{endpoint.url}#some/model", api_key=SECRET)
    assert reranker.relevances("which?", ["long text", "text \ud800"], 300) == [-9, -6]
    assert endpoint.requests == [
        (
            f"Bearer {SECRET}",
            {"query": "which?", "model": "some/model", "documents": ["long text", "text ?"], "top_n": 2},
        )
    ]


def test_an_endpoint_without_a_model_is_asked_for_texts(endpoint: Endpoint) -> None:
    endpoint.answer = in_the_form_of_text_embeddings_inference
    assert Reranker(endpoint.url, api_key=None).relevances("which?", ["long text", "text"], 300) == [-9, -4]
    assert endpoint.requests == [("", {"query": "which?", "texts": ["long text", "text"]})]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>what the user said</html>",
        b"[" * 100_000,
        b"{}",
        b"[]",
        b'{"results": null}',
        b'{"results": [{"index": 0, "relevance_score": 1}]}',
        b'{"results": [{"index": 0, "relevance_score": 1}, {"index": 2, "relevance_score": 1}]}',
        b'{"results": [{"index": 0, "relevance_score": 1}, {"index": 1, "relevance_score": NaN}]}',
        b'{"results": [{"index": 0, "relevance_score": 1}, {"index": 1}]}',
        b'{"results": [{"index": [0], "relevance_score": 1}, {"index": 1, "relevance_score": 1}]}',
        b" " * 2**21,
    ],
)
def test_an_answer_that_is_none_is_an_error_without_its_content(endpoint: Endpoint, answer: bytes) -> None:
    endpoint.answer = lambda body: iter([answer])
    with pytest.raises(RerankerError) as caught:
        Reranker(f"{endpoint.url}#model", api_key=SECRET).relevances("which?", [TEXT, "b"], 300)
    assert TEXT not in str(caught.value) and SECRET not in str(caught.value) and caught.value.__cause__ is None


@pytest.mark.parametrize(("status", "remedy"), [(401, "check its key"), (429, "rate limit"), (500, "check its log")])
def test_a_refusal_is_an_error_with_a_remedy(endpoint: Endpoint, status: int, remedy: str) -> None:
    endpoint.status = status
    with pytest.raises(RerankerError, match=f"answered {status}: .*{remedy}"):
        Reranker(f"{endpoint.url}#model", api_key=None).relevances("which?", [TEXT], 300)


def test_an_endpoint_that_dribbles_is_left_in_time(endpoint: Endpoint) -> None:
    left = threading.Event()

    def dribble(body: dict[str, Any]) -> Iterator[bytes]:
        try:
            for _ in range(3000):
                yield b" "
                time.sleep(0.1)
        finally:
            left.set()

    endpoint.answer = dribble
    with pytest.raises(RerankerError, match="in time"):
        Reranker(f"{endpoint.url}#model", api_key=None).relevances("which?", [TEXT], 0.5)
    assert left.wait(60)


SCOPE = Scope("tests", "reranker")
QUESTION = "What do you know about the boat?"
TEXTS = ("The red boat is called Anna.", "The boat is fast.", "Boats need paint each spring, and this takes a week.")


def recall() -> list[Any]:
    chat = decode(json.dumps({"model": "gpt-4", "messages": [{"role": "user", "content": QUESTION}]}).encode())
    found = recollect(configured_embedder, RecallRequest(SCOPE, chat, count=len, milliseconds=300_000, latest=False))
    return list(found.candidates)


@pytest.fixture
def by_the_formula(db: None) -> list[str]:
    """The texts as the formula orders them, once they are stored."""
    payloads = [{"role": "user", "content": text} for text in TEXTS]
    turns = [Turn.from_payload(json.dumps(payload), payload) for payload in payloads]
    add_messages(scope=SCOPE, messages=[(turn, timezone.now()) for turn in turns])
    return [each.content for each in recall()]


def test_recall_puts_first_what_the_reranker_puts_first(
    endpoint: Endpoint, settings: LazySettings, by_the_formula: list[str]
) -> None:
    settings.RESERVOIR_RERANKER, settings.RESERVOIR_RERANKER_KEY = f"{endpoint.url}#model", ""
    found = recall()
    assert [each.content for each in found] == sorted(by_the_formula, key=len)
    assert [each.parts["reranker"].rank for each in found] == list(range(1, len(found) + 1))
    assert endpoint.requests[0][1]["query"] == QUESTION


def test_recall_keeps_the_formulas_order_when_the_reranker_fails(
    endpoint: Endpoint, settings: LazySettings, by_the_formula: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    settings.RESERVOIR_RERANKER, settings.RESERVOIR_RERANKER_KEY = f"{endpoint.url}#model", ""
    endpoint.status = 503
    assert [each.content for each in recall()] == by_the_formula != sorted(by_the_formula, key=len)
    assert "without the reranker" in caplog.text and QUESTION not in caplog.text
