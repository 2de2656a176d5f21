"""A provider that speaks the OpenAI API over real HTTP on loopback and records what it received.

In tests it runs in a thread of the test process, and every byte of its answers can be scripted:

    with FakeProvider() as provider:
        provider.answer(Answer(429, [("Retry-After", "7")], error_body("Slow down.")))
        provider.answer(stream_answer("Hello there", tail=[Cut.RST], done=False))
        ...
        assert provider.last.json["messages"][-1]["content"] == "Hi"

By hand it lets Reservoir be tried without a key; it prints what it receives:

    python -m tests.fake_provider --port 9000
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import hashlib
import json
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, Self

Headers = Sequence[tuple[str, str]]
KEEP_BODY = 64 * 2**20  # of a larger body only size and digest are kept
CREATED = 1_700_000_000


# --- what it received ---------------------------------------------------------------------------------


@dataclass
class Request:
    """One request as it came. `target` is the raw request target, `headers` in order and as spelled."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    at: float  # time.monotonic()
    connection: int  # which connection it came on, counted from 1
    body: bytes = b""
    size: int = 0
    digest: str = ""  # sha256 of the body
    sent: int = 0  # bytes of the answer handed to the system so far
    gone_at: float | None = None  # when the client closed before the answer was finished
    gone: threading.Event = field(default_factory=threading.Event)
    finished: threading.Event = field(default_factory=threading.Event)

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The messages of a chat request."""
        messages: list[dict[str, Any]] = self.json["messages"]
        return messages

    def header(self, name: str) -> str | None:
        """The value of a header that may stand once; None when it is missing."""
        values = self.all_headers(name)
        assert len(values) < 2, f"{name} was sent {len(values)} times"
        return values[0] if values else None

    def all_headers(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]


# --- what it answers ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pause:
    """Wait so many seconds before the next piece."""

    seconds: float


class Gate:
    """Hang here until the test calls `open()`. `reached` is set when the answer has come this far."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._opened = threading.Event()

    def open(self) -> None:
        self._opened.set()

    async def pass_through(self) -> None:
        self.reached.set()
        while not self._opened.is_set():  # noqa: ASYNC110 - opened from another thread
            await asyncio.sleep(0.002)


class Cut(Enum):
    """End the connection here: politely (FIN) or not (RST)."""

    FIN = "fin"
    RST = "rst"


Piece = bytes | Pause | Gate | Cut
Framing = Literal["length", "chunked", "close", "none"]


@dataclass(frozen=True)
class Answer:
    """An answer to the last byte.

    `body` is bytes, or pieces that go out one by one, each in a chunk of its own. `before` comes before the
    head: hang there, or cut there. `framing` "close" ends the body by closing; "none" sends no head, the
    pieces are all there is. `content_length` may lie. `early` answers without reading the request's body.
    """

    status: int = 200
    headers: Headers = (("Content-Type", "application/json"),)
    body: bytes | Iterable[Piece] = b"{}"
    before: Sequence[Piece] = ()
    framing: Framing | None = None
    content_length: int | None = None
    http: str = "HTTP/1.1"
    early: bool = False


Answerer = Callable[[Request], Answer | None]


def completion(text: str, *, model: str = "gpt-4", message: dict[str, Any] | None = None, **more: Any) -> bytes:
    """The body of an answer that is not streamed."""
    body = {
        "id": "chatcmpl-fake",
        "object": "chat.completion",
        "created": CREATED,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": message or {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 9,
            "completion_tokens": len(text.split()),
            "total_tokens": 9 + len(text.split()),
        },
        "system_fingerprint": "fp_fake",
    }
    return json.dumps(body | more).encode()


def text_answer(text: str, headers: Headers = (), **more: Any) -> Answer:
    return Answer(200, [("Content-Type", "application/json"), *headers], completion(text, **more))


def error_body(message: str, *, kind: str = "invalid_request_error", code: str | None = None) -> bytes:
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()


def event(data: dict[str, Any] | str) -> bytes:
    """One server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data)
    return f"data: {text}\n\n".encode()


def chunk(delta: dict[str, Any], *, finish: str | None = None, index: int = 0, **more: Any) -> bytes:
    """One chat.completion.chunk as an event."""
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
    return event(
        {
            "id": "chatcmpl-fake",
            "object": "chat.completion.chunk",
            "created": CREATED,
            "model": "gpt-4",
            "system_fingerprint": "fp_fake",
            "choices": [choice],
        }
        | more
    )


def stream_events(text: str, *, usage: bool = False, done: bool = True, choices: int = 1, **more: Any) -> list[bytes]:
    """The events of a streamed answer: role, words, finish reason, usage if asked for, [DONE]."""
    indexes = range(choices)
    events = [chunk({"role": "assistant", "content": "", "refusal": None}, index=i, **more) for i in indexes]
    for number, word in enumerate(text.split(" ")):
        content = word if number == 0 else " " + word
        events += [chunk({"content": content}, index=i, **more) for i in indexes]
    events += [chunk({}, finish="stop", index=i, **more) for i in indexes]
    if usage:
        words = len(text.split())
        counted = {"prompt_tokens": 9, "completion_tokens": words, "total_tokens": 9 + words}
        events.append(chunk({}, **(more | {"choices": [], "usage": counted})))
    if done:
        events.append(event("[DONE]"))
    return events


def stream_answer(
    text: str,
    *,
    delay: float = 0.0,
    split: int | None = None,
    tail: Sequence[Piece] = (),
    headers: Headers = (),
    usage: bool = False,
    done: bool = True,
    choices: int = 1,
    **more: Any,
) -> Answer:
    """A streamed answer. `delay` before every event but the first, `split` into pieces of so many bytes."""
    events = stream_events(text, usage=usage, done=done, choices=choices, **more)
    pieces: list[Piece] = []
    for data in pieces_of(b"".join(events), split) if split else events:
        if pieces and delay:
            pieces.append(Pause(delay))
        pieces.append(data)
    return Answer(200, [("Content-Type", "text/event-stream; charset=utf-8"), *headers], [*pieces, *tail])


def pieces_of(data: bytes, size: int) -> list[bytes]:
    """The data cut at every `size` bytes, through lines and characters alike."""
    return [data[at : at + size] for at in range(0, len(data), size)]


def said(request: Request) -> str:
    """What the model of this provider answers: the text of the last user message, repeated."""
    for message in reversed(request.messages):
        if message.get("role") == "user":
            content = message.get("content") or ""
            if isinstance(content, list):
                content = " ".join(part.get("text", "") for part in content if part.get("type") == "text")
            return f"You said: {content}"
    return "You said nothing."


def vector(text: str, dimensions: int) -> list[float]:
    """A vector that depends on the text alone."""
    seed = hashlib.shake_256(text.encode()).digest(dimensions)
    return [(byte - 127.5) / 127.5 for byte in seed]


# --- the provider -------------------------------------------------------------------------------------


class FakeProvider:
    """Start with `with`. Thread-safe enough for a test: script and read from the test's thread."""

    def __init__(self, port: int = 0, *, word_delay: float = 0.0, log: Callable[[Request], None] | None = None):
        self.port = port
        self.word_delay = word_delay  # seconds before each event of a default stream
        self.requests: list[Request] = []
        self.connections = 0
        self.errors: list[Exception] = []  # what went wrong in a scripted answer
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
        """The chat requests among what was received."""
        return [r for r in self.requests if r.method == "POST" and r.path.endswith("/chat/completions")]

    def answer(self, *answers: Answer | Answerer) -> None:
        """Script the next answers, in order; a function that returns None leaves it to the default."""
        self._queue.extend(answers)

    def answer_always(self, answerer: Answerer | None) -> None:
        """Ask this function for every answer that is not scripted."""
        self._answerer = answerer

    def reset(self) -> None:
        """Forget the script and what was received."""
        self._queue.clear()
        self._answerer = None
        self.word_delay = 0.0
        self.requests.clear()

    def wait_for(self, count: int, seconds: float = 5.0) -> list[Request]:
        """Wait until so many requests have come in whole."""
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
            task = asyncio.ensure_future(_Connection(self, reader, writer, self.connections).run())
            running[task] = writer
            task.add_done_callback(running.pop)

        server = await asyncio.start_server(accept, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        await self._stop.wait()
        server.close()
        await asyncio.sleep(0.001)  # a connection that is just being accepted becomes a task
        for task, writer in running.items():
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await asyncio.sleep(0.001)  # what was aborted is closed

    # What follows runs in the provider's thread.

    def _received(self, request: Request) -> None:
        self.requests.append(request)
        if self._log:
            self._log(request)

    def _early(self) -> Answer | None:
        head = self._queue[0] if self._queue else None
        return self._queue.popleft() if isinstance(head, Answer) and head.early else None  # type: ignore[return-value]

    def _choose(self, request: Request) -> Answer:
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


class _Gone(Exception):
    """The client closed the connection."""


class _Connection:
    """One client connection: requests one after the other, each answered to the script."""

    def __init__(
        self,
        provider: FakeProvider,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        number: int,
    ) -> None:
        self._provider, self._reader, self._writer, self._number = provider, reader, writer, number
        self._data = bytearray()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._eof = asyncio.Event()

    async def run(self) -> None:
        pump = asyncio.ensure_future(self._pump())
        try:
            while await self._exchange():
                pass
        except (_Gone, ConnectionError):
            pass
        except Exception as error:
            self._provider.errors.append(error)
        finally:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)
            self._writer.close()
            try:
                await self._writer.wait_closed()  # what was written goes out first
            except (ConnectionError, asyncio.CancelledError):
                self._writer.transport.abort()

    async def _pump(self) -> None:
        """Read all the time, so that a client that leaves is noticed when it does."""
        try:
            while data := await self._reader.read(65536):
                self._data += data
                self._news.set()
                while len(self._data) > 2**20:
                    self._room.clear()
                    await self._room.wait()
        except ConnectionError:
            pass
        finally:
            self._eof.set()
            self._news.set()

    async def _more(self) -> None:
        if self._eof.is_set():
            raise _Gone
        self._news.clear()
        await self._news.wait()

    async def _take(self, size: int) -> bytes:
        """At least one byte and at most `size` of them."""
        while not self._data:
            await self._more()
        data = bytes(self._data[:size])
        del self._data[:size]
        self._room.set()
        return data

    async def _until(self, mark: bytes) -> bytes:
        while (at := self._data.find(mark)) < 0:
            await self._more()
        data = bytes(self._data[:at])
        del self._data[: at + len(mark)]
        return data

    async def _exchange(self) -> bool:
        """One request and its answer; whether the connection goes on."""
        head = await self._until(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _version = first.split(" ")
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        request = Request(method, target, headers, time.monotonic(), self._number)
        if early := self._provider._early():
            self._provider._received(request)
            await self._send(request, early)
            return False
        if (request.header("Expect") or "").lower() == "100-continue":
            self._writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await self._read_body(request)
        self._provider._received(request)
        if request.all_headers("Upgrade") and "upgrade" in (request.header("Connection") or "").lower():
            await self._send(request, Answer(426, body=error_body("No WebSockets here.")))
            return False
        return await self._send(request, self._provider._choose(request))

    async def _read_body(self, request: Request) -> None:
        kept, digest = bytearray(), hashlib.sha256()
        async for data in self._body_pieces(request):
            digest.update(data)
            request.size += len(data)
            if len(kept) < KEEP_BODY:
                kept += data
        request.body, request.digest = bytes(kept), digest.hexdigest()

    async def _body_pieces(self, request: Request) -> Any:
        if "chunked" in (request.header("Transfer-Encoding") or "").lower():
            while size := int((await self._until(b"\r\n")).partition(b";")[0], 16):
                while size:
                    data = await self._take(min(size, 65536))
                    size -= len(data)
                    yield data
                await self._until(b"\r\n")
            while await self._until(b"\r\n"):  # trailers
                pass
            return
        size = int(request.header("Content-Length") or 0)
        while size:
            data = await self._take(min(size, 65536))
            size -= len(data)
            yield data

    async def _send(self, request: Request, answer: Answer) -> bool:
        """Answer, unless the client leaves first; whether the connection goes on."""
        sending = asyncio.ensure_future(self._write(request, answer))
        leaving = asyncio.ensure_future(self._eof.wait())
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            for _ in range(3):  # a client that closes the moment it has everything did not leave early
                await asyncio.sleep(0)
            if sending.done() and not isinstance(sending.exception(), ConnectionError):
                request.finished.set()
                return sending.result()
            request.gone_at = time.monotonic()
            request.gone.set()
            return False
        finally:
            sending.cancel()
            leaving.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _write(self, request: Request, answer: Answer) -> bool:
        framing = answer.framing or ("length" if isinstance(answer.body, bytes) else "chunked")
        if answer.http == "HTTP/1.0" and framing == "chunked":
            framing = "close"
        if not await self._play(request, answer.before, chunked=False):
            return False
        bodiless = request.method == "HEAD" or answer.status in (204, 304)
        if framing != "none":
            await self._put(request, _head(answer, framing, bodiless=bodiless))
        pieces = [answer.body] if isinstance(answer.body, bytes) else answer.body
        if not bodiless and not await self._play(request, pieces, chunked=framing == "chunked"):
            return False
        if framing == "chunked" and not bodiless:
            await self._put(request, b"0\r\n\r\n")
        lies = answer.content_length is not None
        client_closes = (request.header("Connection") or "").lower() == "close"
        return framing in ("length", "chunked") and not lies and not client_closes and answer.http == "HTTP/1.1"

    async def _play(self, request: Request, pieces: Iterable[Piece], *, chunked: bool) -> bool:
        """Send the pieces; False when they end the connection."""
        for piece in pieces:
            match piece:
                case Pause():
                    await asyncio.sleep(piece.seconds)
                case Gate():
                    await piece.pass_through()
                case Cut():
                    await self._cut(piece)
                    return False
                case _ if piece:
                    await self._put(request, b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        return True

    async def _put(self, request: Request, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()
        request.sent += len(data)
        await asyncio.sleep(0)  # a client that reads fast must not keep the others waiting

    async def _cut(self, how: Cut) -> None:
        if how is Cut.RST:
            await asyncio.sleep(0.02)  # what was sent before is to arrive
            linger = struct.pack("ii", 1, 0)
            self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self._writer.transport.abort()
        else:
            self._writer.close()


def _head(answer: Answer, framing: Framing, *, bodiless: bool) -> bytes:
    names = {name.lower() for name, _ in answer.headers}
    lines = [
        f"{answer.http} {answer.status} Scripted",
        *(f"{name}: {value}" for name, value in answer.headers),
    ]
    if answer.content_length is not None:
        lines.append(f"Content-Length: {answer.content_length}")
    elif framing == "length" and answer.status not in (204, 304) and "content-length" not in names:
        assert isinstance(answer.body, bytes), "a body in pieces has no length; give content_length"
        lines.append(f"Content-Length: {len(answer.body)}")
    elif framing == "chunked" and not bodiless:
        lines.append("Transfer-Encoding: chunked")
    elif framing == "close":
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


# --- providers that are not there -------------------------------------------------------------------------


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """A port that refuses connections for as long as the context lasts."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """A port on which connecting hangs: its queue is full and nobody accepts."""
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


# --- by hand ------------------------------------------------------------------------------------------


def _print_request(request: Request) -> None:
    print(f"\n{request.method} {request.target}")
    with contextlib.suppress(ValueError, KeyError, TypeError):
        for message in request.messages:
            print(f"  {message['role']:>9}: {message.get('content')}")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fake_provider", description=__doc__.split("\n")[0])
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--delay", type=float, default=0.1, help="seconds between the words of a stream")
    options = parser.parse_args()
    with FakeProvider(options.port, word_delay=options.delay, log=_print_request) as provider:
        print(f"A provider that repeats what it is told: {provider.base_url}\n")
        print(f"    RSV_OPENAI_BASE_URL={provider.base_url} script/server\n", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
