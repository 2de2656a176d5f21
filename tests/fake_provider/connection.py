"""A connection of the provider: HTTP/1.1 by hand, so that a test controls every byte of an answer."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import struct
import time
from collections.abc import Iterable
from typing import Any, Protocol

from tests.fake_provider.answers import KEEP_BODY, Answer, Cut, Framing, Gate, Pause, Piece, Request, error_body


class Script(Protocol):
    """Decides the answers."""

    errors: list[Exception]

    def received(self, request: Request) -> None: ...

    def early(self) -> Answer | None:
        """The answer to send without waiting for the request's body."""

    def choose(self, request: Request) -> Answer: ...


class _Gone(Exception):
    """The client closed the connection."""


class Connection:
    """One client connection: requests one after the other, each answered as scripted."""

    def __init__(
        self,
        provider: Script,
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
                await self._writer.wait_closed()  # so that written bytes are sent first
            except (ConnectionError, asyncio.CancelledError):
                self._writer.transport.abort()

    async def _pump(self) -> None:
        """Read all the time, so that a leaving client is noticed at once."""
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
        """One request and its answer; returns whether the connection stays open."""
        head = await self._until(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _version = first.split(" ")
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        request = Request(method, target, headers, time.monotonic(), self._number)
        if early := self._provider.early():
            self._provider.received(request)
            await self._send(request, early)
            return False
        if (request.header("Expect") or "").lower() == "100-continue":
            self._writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await self._read_body(request)
        self._provider.received(request)
        if request.all_headers("Upgrade") and "upgrade" in (request.header("Connection") or "").lower():
            await self._send(request, Answer(426, body=error_body("No WebSockets here.")))
            return False
        return await self._send(request, self._provider.choose(request))

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
        """Send the answer unless the client leaves first; returns whether the connection stays open."""
        sending = asyncio.ensure_future(self._write(request, answer))
        leaving = asyncio.ensure_future(self._eof.wait())
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            for _ in range(3):  # a client that closes right after the last byte did not leave early
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
        """Send the pieces; returns False when they end the connection."""
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
        await asyncio.sleep(0)  # a fast client must not keep the others waiting

    async def _cut(self, how: Cut) -> None:
        if how is Cut.RST:
            await asyncio.sleep(0.02)  # so that bytes sent earlier arrive
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
