"""A provider that answers at once, without a model: a process of its own, on one core with the clients.

    python -m benchmarks.instant_provider PORT

Every answer is a new text. A request with `"stream": true` gets CHUNKS events; its `seed` says how many milliseconds
apart they are.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from itertools import count
from typing import Any

import httptools
import uvloop

from benchmarks.texts import Writer

WORDS = 20  # of an answer
CHUNKS = 50
PACED_CHUNKS = 10
TEXTS = 1_000  # different beginnings of an answer

STREAMED = re.compile(rb'"stream"\s*:\s*true')
PACE = re.compile(rb'"seed"\s*:\s*(\d+)')


class Answers:
    """The bytes of whole answers and of events."""

    def __init__(self) -> None:
        writer = Writer(seed=3)
        self._texts = [writer.sentence(WORDS - 1) for _ in range(TEXTS)]
        self._words = [json.dumps(" " + word) for text in self._texts for word in text.split()]
        self._number = count()

    def whole(self) -> bytes:
        number = next(self._number)
        text = f"{self._texts[number % TEXTS]} {number}."
        body = (
            b'{"id":"chatcmpl-%d","object":"chat.completion","created":1750000000,"model":"gpt-4o","choices":[{"index":0,'
            b'"message":{"role":"assistant","content":"%b"},"finish_reason":"stop"}],'
            b'"usage":{"prompt_tokens":100,"completion_tokens":25,"total_tokens":125}}'
        ) % (number, text.encode())
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        return head % len(body) + body

    def events(self, chunks: int) -> list[bytes]:
        """The header with the first event, then one event each."""
        number = next(self._number)
        words = [self._words[(number * CHUNKS + at) % len(self._words)] for at in range(chunks - 1)]
        deltas = [b'{"role":"assistant","content":"%d"}' % number, *(b'{"content":%b}' % w.encode() for w in words)]
        found = [_event(number, delta, b"null") for delta in deltas]
        found.append(_event(number, b"{}", b'"stop"') + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        return [head + found[0], *found[1:]]


def _event(number: int, delta: bytes, finish: bytes) -> bytes:
    event = (
        b'data: {"id":"chatcmpl-%d","object":"chat.completion.chunk","created":1750000000,"model":"gpt-4o",'
        b'"choices":[{"index":0,"delta":%b,"finish_reason":%b}]}\n\n'
    )
    return _chunk(event % (number, delta, finish))


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Connection(asyncio.Protocol):
    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._parser: Any = httptools.HttpRequestParser(self)
        self._body = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._body = b""

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if not STREAMED.search(self._body):
            self._transport.write(self._answers.whole())
            return
        pace = PACE.search(self._body)
        milliseconds = int(pace[1]) if pace else 0
        self._send(self._answers.events(PACED_CHUNKS if milliseconds else CHUNKS), milliseconds / 1000)

    def _send(self, rest: list[bytes], seconds: float) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(rest[0])
        if rest[1:]:
            asyncio.get_running_loop().call_later(seconds, self._send, rest[1:], seconds)


async def serve(port: int) -> None:
    loop, answers = asyncio.get_running_loop(), Answers()
    server = await loop.create_server(lambda: Connection(answers), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
