"""An answer on its way to the client: bytes go on as they come, a copy is kept, and remembered at the end."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from decimal import Decimal
from typing import Any

from proxy.answer.sse import COPY_LIMIT, StreamCopy
from proxy.errors import ProviderError
from proxy.memory.exchange import Ended, Result
from proxy.prompt.chat import decode_reply
from proxy.providers.registry import Providers, Target
from proxy.upstream import Answer

Remember = Callable[[Result], Awaitable[None]]

HALF_EVENT = 2**16  # bytes
EMPTY_LINES = (b"\n\n", b"\r\n\r\n", b"\r\r")
DEAREST = Decimal(1_000_000)  # US dollars; what costs more is a mistake of whoever counted
QUICKLY_READ = 2**18  # bytes of JSON that are read in a few milliseconds


def failed(error: ProviderError) -> Result:
    """No answer came."""
    return Result(Ended.FAILED, error.status, error=error.message)


def gone(status: int | None = None) -> Result:
    """The client left before the answer."""
    return Result(Ended.GONE, status)


async def receive(answer: Answer) -> tuple[bytes, AsyncIterator[bytes] | None]:
    """An answer that is not streamed: all of it, or its beginning and what is still to come of one over COPY_LIMIT.

    Raises ProviderError when it breaks off.
    """
    parts, size, chunks = [], 0, answer.chunks()
    async for chunk in chunks:
        parts.append(chunk)
        size += len(chunk)
        if size > COPY_LIMIT:
            return b"".join(parts), chunks
    return b"".join(parts), None


async def whole(answer: Answer, body: bytes) -> Result:
    """An answer that was not streamed."""
    if len(body) > QUICKLY_READ:
        return await asyncio.to_thread(_read, answer, body)
    return _read(answer, body)


async def large(answer: Answer, body: bytes, rest: AsyncIterator[bytes], remember: Remember) -> AsyncIterator[bytes]:
    """Relay an answer that is too large to be kept, in constant memory. Its end is held back until that is stored."""
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
        await answer.close()
        await remember(result)
    yield body


def _read(answer: Answer, body: bytes) -> Result:
    reply = decode_reply(_Decoder(answer.encoding).feed(body))
    if answer.status < 400 and reply.complete:
        return Result(Ended.ANSWERED, answer.status, reply)
    return Result(Ended.FAILED, answer.status, reply, _in_words(reply.error))


async def stream(answer: Answer, remember: Remember) -> AsyncIterator[bytes]:
    """Relay a streamed answer. Its end is held back until it is remembered.

    So is the beginning of an event until its end has come: an event that the provider breaks off in the middle of is
    nothing that a client could read, and would spoil the error frame after it.
    """
    copy, decoder, whole_events = StreamCopy(), _Decoder(answer.encoding), _WholeEvents()
    broken: ProviderError | None = None
    left, remembered = True, False
    try:
        try:
            async for chunk in answer.chunks():
                ready = copy.feed(decoder.feed(chunk))
                if copy.done and not remembered:
                    if not decoder.active and (ready := whole_events.feed(ready) + whole_events.rest()):
                        yield ready
                    await remember(_streamed(answer, copy, None, left=False))
                    remembered = True
                    ready = copy.release()
                elif not decoder.active and not remembered:
                    ready = whole_events.feed(ready)
                if decoder.active:
                    ready = chunk
                if ready:
                    yield ready
        except ProviderError as error:
            broken = error
        if broken and not copy.done:
            tail = copy.fail(broken)
        else:
            copy.close()
            tail = whole_events.rest() + copy.release()
        left = False
        if not remembered:
            await remember(_streamed(answer, copy, broken, left=False))
            remembered = True
        if broken and decoder.active:
            raise broken  # an error frame cannot be put into what is compressed: the connection is cut
        if tail and not decoder.active:
            yield tail
    finally:
        if not remembered:
            await answer.close()  # the provider works for nobody, however long storing takes
            await remember(_streamed(answer, copy, broken, left=left))


def _streamed(answer: Answer, copy: StreamCopy, broken: ProviderError | None, *, left: bool) -> Result:
    reply = copy.reply()
    if left and not copy.done:
        return Result(Ended.GONE, answer.status, reply)
    if reply.error is not None or not reply.complete:
        error = broken.message if broken else _in_words(reply.error)
        ended = Ended.CUT if answer.status < 400 else Ended.FAILED
        return Result(ended, answer.status, reply, error)
    left_out = f"The answer is larger than {COPY_LIMIT} bytes: only its beginning is kept." if copy.truncated else ""
    return Result(Ended.ANSWERED, answer.status, reply, left_out)


def _in_words(error: object) -> str:
    """A provider's error object as one line."""
    if isinstance(error, dict):
        parts = [error.get("code") or error.get("type"), error.get("message")]
        return ": ".join(str(part) for part in parts if part)[:500]
    return str(error)[:500] if error else ""


def cost(providers: Providers, target: Target, usage: Mapping[str, Any]) -> Decimal | None:
    """What an exchange cost in US dollars, from the provider's `usage`; None where nobody knows."""
    details = usage.get("prompt_tokens_details")
    counts = (
        usage.get("prompt_tokens"),
        usage.get("completion_tokens"),
        details.get("cached_tokens") if isinstance(details, dict) else 0,
    )
    whole = [n if type(n) is int and 0 <= n < 2**31 else 0 for n in counts]
    dollars = providers.cost(target, *whole) if any(whole) else None
    return dollars if dollars is not None and dollars < DEAREST else None


class _WholeEvents:
    """Hands a stream's bytes on as far as an empty line ends an event; of one over HALF_EVENT what there is of it."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        self._held += data
        end = max((at + len(line) for line in EMPTY_LINES if (at := self._held.rfind(line)) >= 0), default=0)
        if len(self._held) - end > HALF_EVENT:
            end = len(self._held)
        ready, self._held = self._held[:end], self._held[end:]
        return ready

    def rest(self) -> bytes:
        """The beginning of an event that is held back."""
        rest, self._held = self._held, b""
        return rest


class _Decoder:
    """Undoes the compression of a provider that compresses although asked not to, for the copy."""

    def __init__(self, encoding: str) -> None:
        self.active = encoding not in ("", "identity")
        self._zlib = zlib.decompressobj(zlib.MAX_WBITS | 32) if encoding in ("gzip", "x-gzip", "deflate") else None

    def feed(self, data: bytes) -> bytes:
        if not self.active:
            return data
        if self._zlib is None:
            return b""  # relayed as it is; there is no copy
        try:
            return self._zlib.decompress(data, 2**25)
        except zlib.error:
            self._zlib = None
            return b""


class Stopwatch:
    """Milliseconds of each phase, for `Server-Timing` and the exchange."""

    def __init__(self) -> None:
        self._started = self._last = time.perf_counter()
        self.phases: dict[str, float] = {}

    def lap(self, phase: str) -> None:
        """The phase ends now."""
        now = time.perf_counter()
        self.phases[phase] = round((now - self._last) * 1000, 2)
        self._last = now

    def total(self) -> dict[str, float]:
        """The phases so far and the whole."""
        return self.phases | {"total": round((time.perf_counter() - self._started) * 1000, 2)}

    def header(self) -> str:
        """W3C Server Timing."""
        return ", ".join(f"{phase};dur={ms:.1f}" for phase, ms in self.phases.items())
