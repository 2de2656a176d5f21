"""The usage that a passed-through answer states, read from a copy of its last bytes while it is relayed."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

from proxy.answer.decompression import Decoder
from proxy.answer.usage import usage_in
from proxy.prompt.chat import Json
from proxy.upstream import Answer

KEPT = 2**15  # bytes at the end of an answer; providers state the usage there, in JSON and in streams

# In a JSON string the quotes would be escaped, so a text cannot look like this.
_USAGE = re.compile(rb'(?<!\\)"(usage|usageMetadata)"\s*:\s*(?=\{)')


async def metered(answer: Answer, tell: Callable[[Json], None]) -> AsyncIterator[bytes]:
    """The body's bytes as they arrive, in constant memory. At the end, however it ends, `tell` gets the usage, if any.

    Raises ProviderError when the body breaks off.
    """
    decoder, tail = Decoder(answer.encoding), b""
    try:
        async with aclosing(answer.chunks()) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                yield chunk
                for piece in decoder.pieces(chunk):
                    tail = (tail + piece)[-KEPT:]
                    if decoder.active:
                        await asyncio.sleep(0)  # a few bytes may expand to many
    finally:
        if usage := stated(tail):
            tell(usage)


def stated(tail: bytes) -> Json | None:
    """The last usage that the end of an answer names, in OpenAI's words; None without one."""
    found = list(_USAGE.finditer(tail))
    if not found:
        return None
    text = tail[found[-1].end() :].decode("utf-8", "replace")
    try:
        usage, _ = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return usage_in({"usage": usage})
