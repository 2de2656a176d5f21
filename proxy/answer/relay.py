"""An answer on its way to the client: its bytes are relayed as they arrive, and a copy is remembered at the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Protocol

from proxy.answer.decompression import Decoder
from proxy.answer.frames import WholeEvents, are_events
from proxy.answer.provider_error import error_line, error_line_of_body, redacted
from proxy.answer.room import COPY_LIMIT
from proxy.answer.stream_copy import StreamCopy
from proxy.errors import ProviderError
from proxy.memory.exchange import Ended, Result
from proxy.prompt.chat import Reply
from proxy.upstream import Answer

Remember = Callable[[Result], Awaitable[None]]


class Reader(Protocol):
    """Reads answers of one API."""

    def copy(self) -> StreamCopy:
        """For one streamed answer."""

    def reply(self, body: bytes) -> Reply:
        """The body of an answer that was not streamed -> its Reply; an empty Reply for anything else."""


QUICKLY_READ = 2**16  # bytes of JSON that can be parsed in a few milliseconds, whatever they are
QUICKLY_COPIED = 2**11  # bytes of a stream that can be parsed in a millisecond
EXPANDS = "The compressed answer expands to more than is kept: only its beginning is kept."


def failed(error: ProviderError) -> Result:
    """The result when no answer came."""
    return Result(Ended.FAILED, error.status, error=error.message)


def gone(status: int | None = None) -> Result:
    """The result when the client left before the answer."""
    return Result(Ended.GONE, status)


async def is_stream(answer: Answer, *, requested: bool) -> bool:
    """Whether to relay an answer as a stream: its Content-Type says so, or the client asked for one and the bytes are
    events under another type. Raises ProviderError when the answer breaks off before that is known.
    """
    return answer.is_event_stream or (requested and await answer.begins(are_events))


async def receive(answer: Answer) -> tuple[bytes, AsyncIterator[bytes] | None]:
    """Read an answer that is not streamed.

    Returns its whole body and None. For a body over COPY_LIMIT, returns the beginning and an iterator over the
    rest. Raises ProviderError when the answer breaks off.
    """
    parts, size, chunks = [], 0, answer.chunks()
    async for chunk in chunks:
        parts.append(chunk)
        size += len(chunk)
        if size > COPY_LIMIT:
            return b"".join(parts), chunks
    return b"".join(parts), None


async def whole(answer: Answer, body: bytes, reader: Reader) -> Result:
    """The result of an answer that was not streamed."""
    decoder = Decoder(answer.encoding)
    if decoder.active or len(body) > QUICKLY_READ:
        return await asyncio.to_thread(lambda: _read(answer, decoder.feed(body), reader))
    return _read(answer, body, reader)


def _read(answer: Answer, body: bytes, reader: Reader) -> Result:
    """The result of a whole answer, whose `body` is plain."""
    reply = _events_in(body, reader) if are_events(body[:100]) else reader.reply(body)
    if answer.status < 400 and reply.complete:
        return Result(Ended.ANSWERED, answer.status, reply)
    if answer.status < 400 and reply.pending:
        return Result(Ended.OPEN, answer.status, reply)
    error = error_line(reply.error) or error_line_of_body(body)
    return Result(Ended.FAILED, answer.status, reply, redacted(error, answer.secrets))


def _events_in(body: bytes, reader: Reader) -> Reply:
    """The answer of an event stream that came under another Content-Type."""
    copy = reader.copy()
    copy.feed(body)
    copy.close()
    return copy.reply()


async def large(answer: Answer, body: bytes, rest: AsyncIterator[bytes], remember: Remember) -> AsyncIterator[bytes]:
    """Relay an answer that is too large to keep, in constant memory.

    The last bytes are held back until the exchange is remembered.
    """
    result = Result(Ended.GONE, answer.status)
    try:
        async with aclosing(rest) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                yield body
                body = chunk
        ended = Ended.ANSWERED if answer.status < 400 else Ended.FAILED
        result = Result(ended, answer.status, error=f"The answer is larger than {COPY_LIMIT} bytes and is not kept.")
    except ProviderError as error:
        result = Result(Ended.CUT, answer.status, error=error.message)
        raise
    finally:
        await remember(result)
    yield body


async def stream(answer: Answer, reader: Reader, remember: Remember) -> AsyncIterator[bytes]:
    """Relay a streamed answer. The end is held back until the answer is remembered.

    The beginning of an event is held back until its end arrives: a client cannot read an event that the provider
    breaks off, and half an event would spoil the error frame after it.

    A compressed stream is relayed as it is: nothing can be held back from it or added to it. Raises ProviderError
    when such a stream breaks off.
    """
    relay = _StreamRelay(answer, reader, remember)
    try:
        # Leaving this block closes the connection: the provider stops working before a slow storing begins.
        async with aclosing(answer.chunks()) as chunks:  # type: ignore[type-var]
            try:
                async for chunk in chunks:
                    if ready := await relay.feed(chunk):
                        yield ready
                    if relay.is_complete and (ready := await relay.complete()):
                        yield ready
            except ProviderError as error:
                relay.broken = error
        if tail := await relay.end():
            yield tail
    finally:
        await relay.remember()


class _StreamRelay:
    """The state of one streamed answer: its copy, what is held back, and whether it has been remembered."""

    def __init__(self, answer: Answer, reader: Reader, remember: Remember) -> None:
        self.broken: ProviderError | None = None  # the error that ended the provider's stream
        self._answer = answer
        self._reader = reader
        self._remember = remember
        self._remembered = False
        self._ended = False
        self._copy = reader.copy()
        self._decoder = Decoder(answer.encoding)
        self._events = WholeEvents()
        self._last = b""  # the compressed bytes that hold the terminal event, or the end of a JSON body
        self._json: list[bytes] | None = None  # a JSON body under the Content-Type of a stream
        self._size = 0
        self._begun = False

    @property
    def is_complete(self) -> bool:
        """Whether the terminal event has arrived and the answer is still to be remembered."""
        return self._copy.done and not self._remembered

    async def feed(self, chunk: bytes) -> bytes:
        """Take the provider's next bytes; returns the bytes to relay now.

        Gives way to other requests after each piece: buffered chunks follow each other without a pause.
        """
        ready = b""
        for piece in self._decoder.pieces(chunk):
            ready += self._take(piece)
            if len(piece) > QUICKLY_COPIED:
                await asyncio.sleep(0)
        if self._json is not None:
            self._last, chunk = chunk, self._last
            return chunk
        if self._decoder.active:
            if self.is_complete:
                self._last, chunk = chunk, b""
            return chunk
        return ready

    def _take(self, piece: bytes) -> bytes:
        """Add plain bytes to the copy; returns those to relay now, unless the answer is compressed or JSON."""
        if not self._begun and piece.strip():
            self._begun = True
            self._json = [] if piece.lstrip().startswith((b"{", b"[")) else None
        if self._json is not None:
            self._size += len(piece)
            if self._size <= COPY_LIMIT:
                self._json.append(piece)
            return b""
        ready = self._copy.feed(piece)
        if self._decoder.active or self._remembered:
            return ready
        ready = self._events.feed(ready)
        return ready + self._events.rest() if self._copy.done else ready

    async def complete(self) -> bytes:
        """Remember the answer; returns the terminal event."""
        await self.remember()
        released = self._copy.release()
        return self._last if self._decoder.active else released

    async def end(self) -> bytes:
        """Remember the answer; returns its last bytes. Raises ProviderError when a compressed stream broke off."""
        if self._json is not None:
            tail = self._last
        elif self.broken and not self._copy.done:
            tail = self._copy.fail(self.broken)
        else:
            self._copy.close()
            tail = self._events.rest() + self._copy.release()
        self._ended = True
        await self.remember()
        if self.broken and (self._decoder.active or self._json is not None):
            raise self.broken  # neither a compressed stream nor JSON can take an error frame: the connection is cut
        if not self._decoder.active:
            return tail
        return b""

    async def remember(self) -> None:
        """Remember what has arrived, once. Before the end of the stream this means that the client has left."""
        if not self._remembered:
            await self._remember(await self._result())
            self._remembered = True

    async def _result(self) -> Result:
        status = self._answer.status
        if self._json is not None and self._ended and not self.broken:
            if self._size > QUICKLY_READ:
                return await asyncio.to_thread(_read, self._answer, b"".join(self._json), self._reader)
            return _read(self._answer, b"".join(self._json), self._reader)
        reply = self._copy.reply()
        if self._decoder.stopped and self._ended and not self.broken:
            return Result(Ended.ANSWERED if status < 400 else Ended.FAILED, status, reply, EXPANDS)
        if reply.pending and reply.error is None:
            return Result(Ended.OPEN, status, reply)
        if not (self._ended or self._copy.done or reply.complete):  # a client may leave at the finish_reason
            return Result(Ended.GONE, status, reply)
        if reply.error is not None or not reply.complete:
            error = self.broken.message if self.broken else redacted(error_line(reply.error), self._answer.secrets)
            return Result(Ended.CUT if status < 400 else Ended.FAILED, status, reply, error)
        note = f"The answer is larger than {COPY_LIMIT} bytes: only its beginning is kept."
        return Result(Ended.ANSWERED, status, reply, note if self._copy.truncated else "")
