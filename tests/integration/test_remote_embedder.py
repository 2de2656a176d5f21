"""RemoteEmbedder against a real HTTP server."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from conversations.embedders.base import EmbedderError
from conversations.embedders.factory import make_embedder
from conversations.embedders.remote import BATCH, RemoteEmbedder

SECRET = "sk-very-secret"
TEXT = "what the user said"


class Endpoint(ThreadingHTTPServer):
    """Answers each request with the result of `answer` for its JSON, and records the requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.answer: Callable[[dict[str, Any]], tuple[int, bytes]] = embeddings

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Endpoint)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append((self.path, headers, body))
        status, content = self.server.answer(body)
        self.send_response(status)
        self.send_header("Set-Cookie", "tenant=one")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def embeddings(body: dict[str, Any]) -> tuple[int, bytes]:
    """(length of the text, 1, 0) for each text, the last first."""
    data = [
        {"object": "embedding", "index": index, "embedding": [len(text), 1, 0]}
        for index, text in enumerate(body["input"])
    ]
    return 200, json.dumps({"object": "list", "data": data[::-1]}).encode()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@contextmanager
def connected(endpoint: Endpoint, model: str = "some-model", timeout: float = 30.0) -> Iterator[RemoteEmbedder]:
    embedder = RemoteEmbedder(endpoint.url, model, api_key=SECRET, dimensions=3, timeout=timeout)
    yield embedder
    embedder.close()


def test_vectors_come_in_the_order_of_the_texts_with_length_one(endpoint: Endpoint) -> None:
    with connected(endpoint) as embedder:
        vectors = embedder.embed(["", "x", "xxx"])
    assert vectors.dtype == np.float32
    assert np.allclose(vectors[:, 0] / vectors[:, 1], [0, 1, 3])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)


def test_many_texts_are_requested_in_batches(endpoint: Endpoint) -> None:
    lengths = [number % 7 for number in range(2 * BATCH + 1)]
    with connected(endpoint) as embedder:
        vectors = embedder.embed(["x" * length for length in lengths])
    assert [len(body["input"]) for _, _, body in endpoint.requests] == [BATCH, BATCH, 1]
    assert np.allclose(vectors[:, 0] / vectors[:, 1], lengths, atol=1e-4)


def test_no_texts_make_no_request(endpoint: Endpoint) -> None:
    with connected(endpoint) as embedder:
        assert embedder.embed([]).shape == (0, 3)
    assert endpoint.requests == []


def test_the_request_has_only_fields_that_every_endpoint_accepts(endpoint: Endpoint) -> None:
    with connected(endpoint) as embedder:
        embedder.embed([TEXT])
    path, headers, body = endpoint.requests[0]
    assert path == "/v1/embeddings"
    assert headers["authorization"] == f"Bearer {SECRET}"
    assert body == {"model": "some-model", "input": [TEXT]}


def test_models_that_shorten_their_vectors_are_asked_to(endpoint: Endpoint) -> None:
    with connected(endpoint, "text-embedding-3-small") as embedder:
        embedder.embed([TEXT])
    assert endpoint.requests[0][2]["dimensions"] == 3


@pytest.mark.parametrize("ending", ["", "/", "/embeddings", "/embeddings/"])
def test_an_embedder_is_made_from_an_address_and_a_model(endpoint: Endpoint, ending: str) -> None:
    embedder = make_embedder(f"{endpoint.url}{ending}#org/model:v1", api_key=None, dimensions=3)
    assert embedder.embed([TEXT]).shape == (1, 3)
    embedder.close()
    path, headers, body = endpoint.requests[0]
    assert (path, body["model"], embedder.name) == ("/v1/embeddings", "org/model:v1", "org/model:v1@3")
    assert "authorization" not in headers


def test_cookies_are_not_kept(endpoint: Endpoint) -> None:
    with connected(endpoint) as embedder:
        embedder.embed([TEXT])
        embedder.embed([TEXT])
    assert "cookie" not in endpoint.requests[1][1]


def test_a_lone_surrogate_is_sent_as_a_question_mark(endpoint: Endpoint) -> None:
    with connected(endpoint) as embedder:
        embedder.embed(["a\ud800"])
    assert endpoint.requests[0][2]["input"] == ["a?"]


def test_proxies_in_the_environment_are_ignored(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    with connected(endpoint) as embedder:
        assert len(embedder.embed([TEXT])) == 1


@pytest.mark.parametrize(
    ("status", "remedy"),
    [(401, "check its key"), (404, "model's name"), (429, "rate limit"), (500, "its log"), (302, "its log")],
)
def test_an_error_gives_status_and_remedy_but_quotes_no_answer(endpoint: Endpoint, status: int, remedy: str) -> None:
    endpoint.answer = lambda body: (status, json.dumps({"error": f"{body['input']} {SECRET}"}).encode())
    with connected(endpoint) as embedder, pytest.raises(EmbedderError) as caught:
        embedder.embed([TEXT])
    message = str(caught.value)
    assert str(status) in message
    assert remedy in message
    assert TEXT not in message
    assert SECRET not in message
    assert len(endpoint.requests) == 1, "no hidden retries"


def reply(*data: object) -> Callable[[dict[str, Any]], tuple[int, bytes]]:
    return lambda _: (200, json.dumps({"data": data}).encode())


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (reply({"index": 0, "embedding": [1, 2]}), "2 dimensions, but 3 are configured: configure 2"),
        (reply(), "one vector for each text"),
        (reply({"index": 1, "embedding": [1, 2, 3]}), "one vector for each text"),
        (reply({"index": 0, "embedding": "AAAA"}), "one vector for each text"),
        (reply({"index": 0, "embedding": [1, None, 3]}), "zero or not finite"),
        (reply({"index": 0, "embedding": [[1, 2, 3]]}), "one vector for each text"),
        (reply({"embedding": [1, 2, 3]}), "one vector for each text"),
        (
            reply({"index": 0, "embedding": [1, 2, 3]}, {"index": 1, "embedding": [1, 2, 3]}),
            "one vector for each text",
        ),
        (reply({"index": 0, "embedding": [0, 0, 0]}), "zero or not finite"),
        (reply({"index": 0, "embedding": [float("nan"), 0, 0]}), "zero or not finite"),
        (reply({"index": 0, "embedding": [1e300, 0, 0]}), "zero or not finite"),
        (lambda _: (200, b"[]"), "one vector for each text"),
        (lambda _: (200, b"<html>what the user said"), "something other than JSON"),
        (lambda _: (200, b"\xff\xfe\xfa"), "something other than JSON"),
    ],
)
def test_an_invalid_answer_is_an_error_of_one_sentence(
    endpoint: Endpoint, answer: Callable[[dict[str, Any]], tuple[int, bytes]], sentence: str
) -> None:
    endpoint.answer = answer
    with connected(endpoint) as embedder, pytest.raises(EmbedderError, match=sentence) as caught:
        embedder.embed([TEXT])
    assert TEXT not in repr(caught.value) + repr(caught.value.__cause__)


def test_a_slow_endpoint_times_out(endpoint: Endpoint) -> None:
    def slowly(body: dict[str, Any]) -> tuple[int, bytes]:
        time.sleep(0.5)
        return embeddings(body)

    endpoint.answer = slowly
    with connected(endpoint, timeout=0.1) as embedder, pytest.raises(EmbedderError, match="in time"):
        embedder.embed([TEXT])


def test_an_unreachable_endpoint_is_named(endpoint: Endpoint) -> None:
    embedder = RemoteEmbedder("http://127.0.0.1:1/v1", "model", api_key=SECRET, dimensions=3)
    with pytest.raises(EmbedderError, match=r"127\.0\.0\.1:1.* cannot be reached"):
        embedder.embed([TEXT])
    embedder.close()


def test_tokens_are_never_underestimated(endpoint: Endpoint) -> None:
    with connected(endpoint) as embedder:
        assert embedder.count("") == 0
        assert embedder.count("abcd") == 2
        assert embedder.count("记忆") == 2
        assert embedder.count("\ud800") == 1
