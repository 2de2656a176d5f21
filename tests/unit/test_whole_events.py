"""A relayed stream delivers whole events and ends with the reason if it breaks off."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversations.models import Exchange
from proxy.answer import relay
from proxy.dialects.chat_completions.dialect import CHAT_COMPLETIONS
from proxy.errors import ProviderError, ProviderUnreachable

Ended = Exchange.Ended

DONE = b"data: [DONE]\n\n"
BROKEN = ProviderUnreachable("The connection broke.")
HALF_EVENT = 2**16  # bytes of one event; the beginning of a longer one is relayed early


def event(text: str, end: bytes = b"\n\n") -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + end


STOP = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'


class Provider:
    """A provider's answer in these chunks, which may break off; records what client and store got."""

    def __init__(
        self, *chunks: bytes, breaks: ProviderError | None = None, status: int = 200, encoding: str = ""
    ) -> None:
        self.status = status
        self.encoding = encoding
        self.secrets: tuple[str, ...] = ()
        self.closed = False
        self.got: list[bytes] = []
        self.results: list[Any] = []
        self.seen_when_stored: list[bytes] = []
        self.closed_when_stored: list[bool] = []
        self._chunks, self._breaks = chunks, breaks

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            for chunk in self._chunks:
                yield chunk
            if self._breaks:
                raise self._breaks
        finally:
            await self.close()

    async def close(self) -> None:
        self.closed = True

    async def remember(self, result: Any) -> None:
        self.results.append(result)
        self.seen_when_stored.append(b"".join(self.got))
        self.closed_when_stored.append(self.closed)

    async def relay(self, *, leaves_after: int | None = None) -> bytes:
        """Everything that the client got; it leaves after this many chunks."""
        answer: Any = self
        async with aclosing(relay.stream(answer, CHAT_COMPLETIONS, self.remember)) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                self.got.append(chunk)
                if len(self.got) == leaves_after:
                    break
        return b"".join(self.got)

    @property
    def ended(self) -> str:
        [result] = self.results
        ended: str = result.ended
        return ended

    @property
    def said(self) -> str:
        """The text of the answer as it was stored."""
        [message] = self.results[0].reply.messages
        text: str = message.payload["content"] or ""
        return text


def cut(data: bytes, at: list[int]) -> list[bytes]:
    """The data in chunks that end at these places."""
    ends = [0, *sorted({place % (len(data) + 1) for place in at}), len(data)]
    return [data[start:end] for start, end in pairwise(ends)]


places = st.lists(st.integers(0, 2**16), max_size=8)
line_ends = st.sampled_from([b"\n\n", b"\r\n\r\n", b"\r\r"])


@given(st.lists(st.tuples(st.text(max_size=12), line_ends), max_size=5), places)
async def test_a_whole_stream_arrives_to_the_byte_however_it_is_cut(
    events: list[tuple[str, bytes]], at: list[int]
) -> None:
    data = b"".join(event(text, end) for text, end in events) + STOP + DONE
    provider = Provider(*cut(data, at))
    assert await provider.relay() == data
    assert provider.ended == Ended.ANSWERED
    assert provider.said == "".join(text for text, _ in events)


@given(st.lists(st.text(max_size=12), min_size=1, max_size=4), line_ends, st.integers(0, 2**16), places)
async def test_a_stream_that_breaks_off_delivers_whole_events_and_then_the_error(
    said: list[str], end: bytes, broken_at: int, at: list[int]
) -> None:
    events = [event(text, end) for text in said]
    data = b"".join(events)
    data = data[: broken_at % len(data)]
    got = await Provider(*cut(data, at), breaks=BROKEN).relay()
    whole = b""
    for one in events:
        if not data.startswith(whole + one):
            break
        whole += one
    assert got.startswith(whole)
    frames = [frame for frame in got[len(whole) :].split(b"\n\n") if frame.strip()]
    assert len(frames) >= 1, "the client is not told"
    assert json.loads(frames[0].removeprefix(b"data: "))["error"]["code"] == "provider_unreachable"
    assert all(frame.startswith(b"data: ") for frame in frames)


async def test_an_event_arrives_when_it_is_whole() -> None:
    first, second = event("first"), event("second")
    provider = Provider(first[:10], first[10:] + second[:5], second[5:-1], second[-1:], STOP, DONE)
    await provider.relay()
    assert provider.got == [first, second, STOP, DONE]


async def test_the_beginning_of_a_very_long_event_arrives_early() -> None:
    long = event("x" * (3 * HALF_EVENT))
    chunks = [long[start : start + HALF_EVENT // 2] for start in range(0, len(long), HALF_EVENT // 2)]
    provider = Provider(*chunks, STOP, DONE)
    assert await provider.relay() == long + STOP + DONE
    assert len(provider.got[0]) <= 2 * HALF_EVENT, "a long event is held back as a whole"


@pytest.mark.parametrize("rest", [b"", event("half")[:-9], event("no empty line")[:-1]])
async def test_a_stream_that_ends_without_its_last_event_loses_no_byte(rest: bytes) -> None:
    provider = Provider(event("first"), rest)
    assert await provider.relay() == event("first") + rest


async def test_the_last_event_waits_until_the_answer_is_stored() -> None:
    provider = Provider(event("said") + STOP + DONE[:4], DONE[4:] + b": after\n\n")
    assert await provider.relay() == event("said") + STOP + DONE + b": after\n\n"
    assert provider.seen_when_stored == [event("said") + STOP]
    assert provider.ended == Ended.ANSWERED


async def test_an_event_that_lacks_its_empty_line_stays_before_the_last_event() -> None:
    data = event("said")[:-1] + DONE
    assert await Provider(data[:20], data[20:]).relay() == data


async def test_a_client_that_leaves_stops_the_provider_before_its_part_is_stored() -> None:
    provider = Provider(event("one"), event("two"), STOP, DONE)
    await provider.relay(leaves_after=1)
    assert provider.closed_when_stored == [True]
    assert provider.ended == Ended.GONE
    assert provider.said == "one"


async def test_a_broken_stream_is_stored_once_before_its_error_arrives() -> None:
    provider = Provider(event("half"), event("never whole")[:20], breaks=BROKEN)
    got = await provider.relay()
    assert provider.seen_when_stored == [event("half")]
    error = got.removeprefix(event("half")).strip()
    assert error.startswith(b'data: {"error"') and b"never whole" not in got
    assert (provider.ended, provider.results[0].error) == (Ended.CUT, BROKEN.message)


async def test_compressed_bytes_are_relayed_as_they_come_and_decoded_for_storage() -> None:
    data = gzip.compress(event("packed") + STOP + DONE)
    chunks = [data[:15], data[15:40], data[40:]]
    provider = Provider(*chunks, encoding="gzip")
    assert await provider.relay() == data
    assert provider.got == chunks
    assert (provider.ended, provider.said) == (Ended.ANSWERED, "packed")


async def test_a_broken_compressed_stream_gets_no_error_event() -> None:
    data = gzip.compress(event("packed") * 50)[:30]
    provider = Provider(data, breaks=BROKEN, encoding="gzip")
    with pytest.raises(ProviderUnreachable):
        await provider.relay()
    assert provider.got == [data]
    assert provider.ended == Ended.CUT
