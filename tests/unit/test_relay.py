"""proxy/answer/relay.py: the order in which a stream is relayed, stored and closed."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, cast

import pytest

from proxy.answer import frames, relay
from proxy.answer.frames import WholeEvents
from proxy.dialects.chat_completions.dialect import CHAT_COMPLETIONS
from proxy.errors import ProviderError, ProviderUnreachable
from proxy.memory.exchange import Ended, Result
from proxy.upstream import Answer

HELLO = b'data: {"choices": [{"index": 0, "delta": {"content": "Hello"}}]}\n\n'
STOP = b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"
BROKEN = ProviderUnreachable("The provider broke off.")


class Stream:
    """A provider's answer in pieces; errors among them are raised. `log` lists the events in order."""

    def __init__(self, pieces: Sequence[bytes | ProviderError], *, encoding: str = "identity") -> None:
        self.status = 200
        self.encoding = encoding
        self.log: list[Any] = []
        self._pieces = pieces

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            for piece in self._pieces:
                if isinstance(piece, ProviderError):
                    raise piece
                yield piece
        finally:
            self.log.append("closed")

    async def remember(self, result: Result) -> None:
        self.log.append(result.ended)

    async def relay(self, *, leave_after: int | None = None) -> list[Any]:
        """Relay to a client that leaves after this many pieces; returns the events in order."""
        async with aclosing(relay.stream(cast(Answer, self), CHAT_COMPLETIONS, self.remember)) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                self.log.append(chunk)
                if len(self.log) == leave_after:
                    break
        return self.log


async def test_the_end_is_held_back_until_the_answer_is_remembered() -> None:
    assert await Stream([HELLO, STOP + DONE]).relay() == [HELLO, STOP, Ended.ANSWERED, DONE, "closed"]


async def test_a_stream_without_its_terminal_event_is_closed_and_then_remembered() -> None:
    assert await Stream([HELLO, STOP]).relay() == [HELLO, STOP, "closed", Ended.ANSWERED]


async def test_half_an_event_of_a_stream_that_breaks_off_is_not_relayed() -> None:
    hello, closed, ended, error = await Stream([HELLO, STOP[:20], BROKEN]).relay()
    assert (hello, closed, ended) == (HELLO, "closed", Ended.CUT)
    assert error.strip().startswith(b'data: {"error"')


async def test_a_break_after_the_terminal_event_is_ignored() -> None:
    assert await Stream([HELLO + STOP + DONE, BROKEN]).relay() == [HELLO + STOP, Ended.ANSWERED, DONE, "closed"]


async def test_a_client_that_leaves_stops_the_provider_before_anything_is_stored() -> None:
    assert await Stream([HELLO, STOP + DONE]).relay(leave_after=1) == [HELLO, "closed", Ended.GONE]


async def test_a_client_that_leaves_before_the_terminal_event_has_been_answered() -> None:
    assert await Stream([HELLO + STOP + DONE]).relay(leave_after=2) == [HELLO + STOP, Ended.ANSWERED, DONE, "closed"]


async def test_a_compressed_stream_is_relayed_unchanged_and_stored() -> None:
    packed = gzip.compress(HELLO + STOP + DONE)
    assert await Stream([packed], encoding="gzip").relay() == [Ended.ANSWERED, packed, "closed"]


async def test_a_compressed_stream_that_breaks_off_is_cut() -> None:
    stream = Stream([gzip.compress(HELLO)[:-12], BROKEN], encoding="gzip")
    with pytest.raises(ProviderUnreachable):
        await stream.relay()
    assert stream.log[1:] == ["closed", Ended.CUT]


def test_an_event_is_held_back_until_its_empty_line(monkeypatch: pytest.MonkeyPatch) -> None:
    events = WholeEvents()
    assert events.feed(b"data: a") == b""
    assert events.feed(b"\n\ndata: b\n") == b"data: a\n\n"
    assert events.feed(b"\r\n\r\ndata: c") == b"data: b\n\r\n\r\n"
    assert events.rest() == b"data: c"
    assert events.rest() == b""
    monkeypatch.setattr(frames, "HALF_EVENT", 10)
    assert events.feed(b"data: a long event") == b"data: a long event"
