"""Clients in a closed loop, cheap enough not to be the limit: httptools on bare sockets."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httptools

from benchmarks.texts import Writer

WINDOW = 6  # turns that a client resends, with its question
PACE = 10  # milliseconds between the events of a paced stream
KEY = "sk-benchmark-0f3a9c51d2e84b6791c0a7d35be26f84"  # LiteLLM wants one, and not a weak one
PATIENCE = 60.0  # seconds without an answer

Json = dict[str, Any]


@dataclass
class Answer:
    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    first_byte: float = 0.0  # seconds from sending the request
    whole: float = 0.0


@dataclass
class Tally:
    """What clients saw. Times in seconds."""

    first_bytes: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    memory: Counter[str] = field(default_factory=Counter)  # by X-Reservoir-Memory
    seconds: float = 0.0


class Connection(asyncio.Protocol):
    """A connection that is kept alive, for one request at a time."""

    def __init__(self) -> None:
        self._parser: Any = None
        self._answer = Answer()
        self._sent = 0.0
        self._done: asyncio.Future[Answer] | None = None
        self._transport: Any = None

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done and not self._done.done():
            self._done.set_exception(ConnectionError("the gateway closed the connection"))

    def ask(self, request: bytes) -> asyncio.Future[Answer]:
        self._parser, self._answer = httptools.HttpResponseParser(self), Answer()
        self._done = asyncio.get_running_loop().create_future()
        self._sent = time.perf_counter()
        self._transport.write(request)
        return self._done

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._answer.headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        if not self._answer.first_byte:
            self._answer.first_byte = time.perf_counter() - self._sent
        self._answer.body += body

    def on_message_complete(self) -> None:
        self._answer.status = self._parser.get_status_code()
        self._answer.whole = time.perf_counter() - self._sent
        if not self._parser.should_keep_alive():
            self._transport.close()
        if self._done and not self._done.done():
            self._done.set_result(self._answer)


class Client:
    """One app's user: each question follows the latest turns of the conversation."""

    def __init__(self, url: str, headers: Mapping[str, str], *, seed: int) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        lines = {"Host": parts.netloc, "Content-Type": "application/json", "Authorization": f"Bearer {KEY}", **headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self._head = f"POST {parts.path} HTTP/1.1\r\n{head}Content-Length: ".encode()
        self._writer = Writer(seed)
        self._turns: list[Json] = []
        self._connection: Connection | None = None

    async def exchange(self, *, stream: bool = False, pace: int = 0) -> Answer:
        """Ask the next question. Raises ConnectionError and TimeoutError."""
        self._turns = [*self._turns[-WINDOW:], {"role": "user", "content": self._writer.question()}]
        request: Json = {"model": "gpt-4o", "messages": self._turns}
        if stream:
            request |= {"stream": True} | ({"seed": pace} if pace else {})
        body = json.dumps(request).encode()
        if self._connection is None or not self._connection.is_open:
            made = await asyncio.get_running_loop().create_connection(Connection, self._host, self._port)
            self._connection = made[1]
        async with asyncio.timeout(PATIENCE):
            answer = await self._connection.ask(b"%b%d\r\n\r\n%b" % (self._head, len(body), body))
        if answer.status == 200 and not stream:
            self._turns.append(json.loads(answer.body)["choices"][0]["message"])
        else:
            self._turns.pop()  # as if the user had not asked
        return answer

    async def close(self) -> None:
        if self._connection and self._connection.is_open:
            self._connection._transport.close()
            await asyncio.sleep(0)


async def load(clients: list[Client], seconds: float, *, stream: bool = False, pace: int = 0) -> Tally:
    """All clients ask for some time, each as soon as it has its answer."""
    tally, started = Tally(), time.perf_counter()

    async def ask(client: Client) -> None:
        while time.perf_counter() - started < seconds:
            try:
                answer = await client.exchange(stream=stream, pace=pace)
            except (OSError, TimeoutError):
                tally.statuses[0] += 1
                continue
            tally.statuses[answer.status] += 1
            tally.memory[answer.headers.get(b"x-reservoir-memory", b"").decode()] += 1
            if answer.status == 200:
                tally.first_bytes.append(answer.first_byte)
                tally.times.append(answer.whole)
            elif b"retry-after" in answer.headers:
                await asyncio.sleep(0.1)

    await asyncio.gather(*map(ask, clients))
    tally.seconds = time.perf_counter() - started
    return tally
