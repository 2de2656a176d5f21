"""The usage that a passed-through answer states, found in its last bytes."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.answer.metered import KEPT, metered, stated
from proxy.errors import ProviderUnreachable
from proxy.upstream import Answer


class Body:
    """The part of a provider's answer that is read here."""

    def __init__(self, *chunks: bytes, encoding: str = "identity", breaks: bool = False) -> None:
        self.encoding = encoding
        self._chunks, self._breaks = chunks, breaks

    async def chunks(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk
        if self._breaks:
            raise ProviderUnreachable("It broke off.")


async def relayed(body: Body) -> tuple[bytes, list[Any]]:
    told: list[Any] = []
    out = b"".join([chunk async for chunk in metered(cast(Answer, body), told.append)])
    return out, told


EMBEDDINGS = {"data": [{"embedding": [0.1] * 20_000}], "usage": {"prompt_tokens": 8, "total_tokens": 8}}


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_the_usage_at_the_end_of_a_long_answer_is_told_and_the_bytes_are_unchanged(encoding: str) -> None:
    text = json.dumps(EMBEDDINGS).encode()
    sent = gzip.compress(text) if encoding == "gzip" else text
    assert len(text) > 2 * KEPT
    chunks = [sent[at : at + 1000] for at in range(0, len(sent), 1000)]
    out, told = await relayed(Body(*chunks, encoding=encoding))
    assert out == sent
    assert told == [{"prompt_tokens": 8, "total_tokens": 8}]


async def test_other_names_are_understood_and_answers_without_usage_tell_nothing() -> None:
    _, told = await relayed(Body(b'{"usage": {"input_tokens": 3, "output_tokens": 5}}'))
    assert [(each["prompt_tokens"], each["completion_tokens"]) for each in told] == [(3, 5)]
    assert stated(b'data: {"usageMetadata": {"promptTokenCount": 2}}\n\n') == {
        "promptTokenCount": 2,
        "prompt_tokens": 2,
    }
    for text in (b"", b"RIFF\x00\x00", b'{"usage": null}', b'{"usage": {}}', b'{"usage": {"a": ' + b"[" * 30_000):
        assert stated(text) is None


async def test_an_answer_that_breaks_off_tells_what_has_arrived() -> None:
    told: list[Any] = []
    with pytest.raises(ProviderUnreachable):
        body = Body(b'data: {"usage": {"prompt_tokens": 9}}\n\n', breaks=True)
        async for _ in metered(cast(Answer, body), told.append):
            pass
    assert told == [{"prompt_tokens": 9}]


@given(text=st.text(), key=st.sampled_from(["content", "x"]))
def test_no_text_inside_an_answer_passes_for_its_usage(text: str, key: str) -> None:
    forged = f'{text}"usage": {{"prompt_tokens": -1}} "usage":{{"prompt_tokens": 1}}'
    assert stated(json.dumps({key: forged}).encode()) is None


@given(st.binary(max_size=300))
def test_any_bytes_are_read_without_an_error(data: bytes) -> None:
    stated(data)
    stated(b'"usage": {' + data)
