"""A provider that speaks OpenAI's APIs over real HTTP on loopback and records what it received.

In tests it runs in a thread of the test process, and every byte of its answers can be scripted:

    with FakeProvider() as provider:
        provider.answer(Answer(429, [("Retry-After", "7")], error_body("Slow down.")))
        provider.answer(stream_answer("Hello there", tail=[Cut.RST], done=False))
        ...
        assert provider.last.json["messages"][-1]["content"] == "Hi"
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Self

from tests.fake_provider import messages, responses
from tests.fake_provider.answers import (
    CREATED,
    Answer,
    Answerer,
    Headers,
    Request,
    completion,
    error_body,
    said,
    stream_answer,
    vector,
)
from tests.fake_provider.connection import Connection

Speaks = Callable[[Request, Headers, float], Answer]  # request, headers, seconds before each event


class FakeProvider:
    """Start it with `with`. Scripting and reading are safe from the test's thread."""

    def __init__(self, port: int = 0, *, word_delay: float = 0.0, log: Callable[[Request], None] | None = None):
        self.port = port
        self.word_delay = word_delay  # seconds before each event of a default stream
        self.requests: list[Request] = []
        self.connections = 0
        self.errors: list[Exception] = []  # errors in scripted answers
        self._log = log
        self._queue: deque[Answer | Answerer] = deque()
        self._answerer: Answerer | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def last(self) -> Request:
        return self.requests[-1]

    @property
    def chats(self) -> list[Request]:
        """The chat requests among those received."""
        return [r for r in self.requests if r.method == "POST" and r.path.endswith("/chat/completions")]

    def answer(self, *answers: Answer | Answerer) -> None:
        """Script the next answers, in order; a function that returns None leaves it to the default."""
        self._queue.extend(answers)

    def answer_always(self, answerer: Answerer | None) -> None:
        """Call this function for every answer that is not scripted."""
        self._answerer = answerer

    def reset(self) -> None:
        """Forget the script and the received requests."""
        self._queue.clear()
        self._answerer = None
        self.word_delay = 0.0
        self.requests.clear()

    def wait_for(self, count: int, seconds: float = 300.0) -> list[Request]:
        """Wait until `count` requests have arrived completely."""
        deadline = time.monotonic() + seconds
        while len(self.requests) < count:
            assert time.monotonic() < deadline, f"{len(self.requests)} of {count} requests came"
            time.sleep(0.002)
        return self.requests

    # Starting and stopping keep the port: a provider that goes down and comes back is the same one.

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        assert self._thread is None, "it runs already"
        started: threading.Event = threading.Event()
        failure: list[BaseException] = []

        def run() -> None:
            try:
                asyncio.run(self._serve(started))
            except BaseException as error:
                failure.append(error)
            finally:
                started.set()

        self._thread = threading.Thread(target=run, name="fake-provider", daemon=True)
        self._thread.start()
        started.wait()
        if failure:
            self._thread = None
            raise failure[0]

    def stop(self) -> None:
        """Drop every connection and refuse new ones."""
        if self._thread is None or self._loop is None or self._stop is None:
            return
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._thread = self._loop = self._stop = None

    async def _serve(self, started: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        running: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            task = asyncio.ensure_future(Connection(self, reader, writer, self.connections).run())
            running[task] = writer
            task.add_done_callback(running.pop)

        server = await asyncio.start_server(accept, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        await self._stop.wait()
        server.close()
        await asyncio.sleep(0.001)  # so that a connection that is being accepted becomes a task
        for task, writer in running.items():
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await asyncio.sleep(0.001)  # so that aborted connections are closed

    # The rest runs in the provider's thread.

    def received(self, request: Request) -> None:
        self.requests.append(request)
        if self._log:
            self._log(request)

    def early(self) -> Answer | None:
        head = self._queue[0] if self._queue else None
        return self._queue.popleft() if isinstance(head, Answer) and head.early else None  # type: ignore[return-value]

    def choose(self, request: Request) -> Answer:
        scripted = self._queue.popleft() if self._queue else self._answerer
        answer = scripted(request) if callable(scripted) else scripted
        return answer or self._default(request)

    def _default(self, request: Request) -> Answer:
        headers = [
            ("Content-Type", "application/json"),
            ("x-request-id", f"req_{len(self.requests)}"),
            ("openai-processing-ms", "12"),
            ("openai-version", "2020-10-01"),
        ]
        try:
            fields = request.json if request.body else {}
        except ValueError:
            fields = {}
        match request.method, request.path.rpartition("/v1/")[2]:
            case "POST", "chat/completions":
                return self._chat(request, headers)
            case "POST", "responses":
                return self._in(responses.default, request, headers)
            case "POST", "messages":
                return self._in(messages.default, request, headers)
            case "GET", "models":
                models = [_model(name) for name in ("gpt-4", "gpt-4o-mini", "text-embedding-3-small")]
                return Answer(200, headers, json.dumps({"object": "list", "data": models}).encode())
            case "GET", path if path.startswith("models/"):
                return Answer(200, headers, json.dumps(_model(path.removeprefix("models/"))).encode())
            case "POST", "embeddings":
                return Answer(200, headers, json.dumps(_embeddings(fields)).encode())
            case _:
                echo = {
                    "object": "echo",
                    "method": request.method,
                    "target": request.target,
                    "headers": request.headers,
                    "body": request.body[:10_000].decode(errors="replace"),
                    "size": request.size,
                    "sha256": request.digest,
                }
                return Answer(200, headers, json.dumps(echo).encode())

    def _in(self, dialect: Speaks, request: Request, headers: list[tuple[str, str]]) -> Answer:
        try:
            return dialect(request, headers, self.word_delay)
        except (ValueError, KeyError, TypeError, AttributeError):
            return Answer(400, headers, error_body("We could not parse the JSON body of your request."))

    def _chat(self, request: Request, headers: list[tuple[str, str]]) -> Answer:
        try:
            fields, text = request.json, said(request)
        except (ValueError, KeyError, TypeError, AttributeError):
            return Answer(400, headers, error_body("We could not parse the JSON body of your request."))
        model, choices = fields.get("model", ""), fields.get("n") or 1
        if not fields.get("stream"):
            body = json.loads(completion(text, model=model))
            body["choices"] = [body["choices"][0] | {"index": i} for i in range(choices)]
            return Answer(200, headers, json.dumps(body).encode())
        usage = bool((fields.get("stream_options") or {}).get("include_usage"))
        return stream_answer(
            text, delay=self.word_delay, usage=usage, choices=choices, headers=headers[1:], model=model
        )


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "fake"}


def _embeddings(fields: dict[str, Any]) -> dict[str, Any]:
    texts = fields.get("input", "")
    vectors = [
        vector(str(text), fields.get("dimensions") or 1536) for text in (texts if isinstance(texts, list) else [texts])
    ]
    data = [{"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(vectors)]
    if fields.get("encoding_format") == "base64":
        for item, values in zip(data, vectors, strict=True):
            item["embedding"] = base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
    usage = {"prompt_tokens": 4, "total_tokens": 4}
    return {"object": "list", "data": data, "model": fields.get("model", ""), "usage": usage}


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """A port that refuses connections for as long as the context lasts."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """A port on which connecting hangs: its queue is full, and no connection is accepted."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        address = listening.getsockname()
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.settimeout(0.1)
            with contextlib.suppress(TimeoutError):
                client.connect(address)
        yield address[1]
