"""The requests that the provider receives, and its answers: whole, in events, cut off, paused."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

Headers = Sequence[tuple[str, str]]
KEEP_BODY = 64 * 2**20  # bytes; of larger bodies only size and digest are kept
CREATED = 1_700_000_000


@dataclass
class Request:
    """One request as received. `target` is the raw request target, `headers` in order and as spelled."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    at: float  # time.monotonic()
    connection: int  # which connection it came on, counted from 1
    body: bytes = b""
    size: int = 0
    digest: str = ""  # sha256 of the body
    sent: int = 0  # bytes of the answer handed to the operating system so far
    gone_at: float | None = None  # when the client closed before the end of the answer
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
        """The value of a header that may occur once; None when it is missing."""
        values = self.all_headers(name)
        assert len(values) < 2, f"{name} was sent {len(values)} times"
        return values[0] if values else None

    def all_headers(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]


@dataclass(frozen=True)
class Pause:
    """Wait `seconds` before the next piece."""

    seconds: float


class Gate:
    """Pause the answer here until the test calls `open()`. `reached` is set when the answer gets here."""

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
    """End the connection here: with FIN or with RST."""

    FIN = "fin"
    RST = "rst"


Piece = bytes | Pause | Gate | Cut
Framing = Literal["length", "chunked", "close", "none"]


@dataclass(frozen=True)
class Answer:
    """An answer, defined to the last byte.

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
    """A streamed answer: `delay` seconds before every event but the first, `split` into pieces of that many bytes."""
    events = stream_events(text, usage=usage, done=done, choices=choices, **more)
    pieces: list[Piece] = []
    for data in pieces_of(b"".join(events), split) if split else events:
        if pieces and delay:
            pieces.append(Pause(delay))
        pieces.append(data)
    return Answer(200, [("Content-Type", "text/event-stream; charset=utf-8"), *headers], [*pieces, *tail])


def pieces_of(data: bytes, size: int) -> list[bytes]:
    """The data in pieces of `size` bytes, even within lines and characters."""
    return [data[at : at + size] for at in range(0, len(data), size)]


def said(request: Request) -> str:
    """The default answer: the text of the last user message, repeated."""
    for message in reversed(request.messages):
        if message.get("role") == "user":
            content = message.get("content") or ""
            if isinstance(content, list):
                content = " ".join(part.get("text", "") for part in content if part.get("type") == "text")
            return f"You said: {content}"
    return "You said nothing."


def vector(text: str, dimensions: int) -> list[float]:
    """A vector that depends only on the text."""
    seed = hashlib.shake_256(text.encode()).digest(dimensions)
    return [(byte - 127.5) / 127.5 for byte in seed]
