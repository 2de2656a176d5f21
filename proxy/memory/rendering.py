"""What was added to a request, as a few bytes, and its text again from those and the stored messages. Pure.

The text of the additions repeats what stored messages hold, several kilobytes for each request. So the ledger keeps
the messages' ids, and here what else the text depends on: which of them are turns, where the block stands, and of each
memory the part of its text and whether it is a standing wish. A checksum tells whether the text made of these is, byte
for byte, what was sent; it is not if another version writes blocks in other words.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, get_args

from conversations.leb128 import decode, encode
from conversations.recall.spans import excerpt
from proxy.prompt.chat import Additions, ChatMessage, Memory, MemoryRole, Turn
from proxy.prompt.enrichment import additions_to_send, as_turns, render

_ROLES: tuple[MemoryRole, ...] = get_args(MemoryRole)  # their places are stored: new ones are added at the end
_HEAD = 3  # numbers before those of the memories


class Part(NamedTuple):
    """What is shown of a memory: offsets in its text."""

    start: int
    end: int
    is_wish: bool


class Stored(NamedTuple):
    """A stored message."""

    id: int
    role: str
    name: str
    created: datetime
    content: str


class Added(NamedTuple):
    """The JSON texts of what was added to a request, and whether they are exactly what was sent."""

    texts: tuple[str, ...] = ()
    exact: bool = True


def as_turn(message: Stored) -> Turn:
    """A stored message as a turn to add."""
    payload = {"role": message.role, "content": message.content} | ({"name": message.name} if message.name else {})
    return Turn(message.id, ChatMessage.make(payload), message.created)


def described(texts: Sequence[str], role: MemoryRole, turns: int, parts: Sequence[Part]) -> bytes:
    """What rebuilt() needs, beside the ids of the turns and then of the memories, to make these texts again."""
    numbers = [_ROLES.index(role), _checksum(texts), turns]
    for start, end, is_wish in parts:
        numbers += (start, end - start, int(is_wish))
    return encode(numbers)


def rebuilt(rendering: bytes, ids: Sequence[int], stored: Mapping[int, Stored]) -> Added:
    """The texts that described() was given. None, and inexact, if a message is missing or the bytes are not its."""
    role, checksum, turns, *rest = decode(rendering) or [0] * _HEAD
    if role >= len(_ROLES) or len(rest) != 3 * (len(ids) - turns) or any(pk not in stored for pk in ids):
        return Added(exact=False)
    memories = [_memory(stored[pk], *rest[3 * at : 3 * at + 3]) for at, pk in enumerate(ids[turns:])]
    said, block = [as_turn(stored[pk]) for pk in ids[:turns]], render(memories)
    for names in (True, False):  # some APIs know no names: the checksum tells
        additions = Additions(as_turns(said, names=names), tuple(memories))
        texts = additions_to_send(additions, block, _ROLES[role])
        if _checksum(texts) == checksum:
            return Added(texts)
    return Added(texts, exact=False)


def _memory(message: Stored, start: int, length: int, is_wish: int) -> Memory:
    return Memory(
        id=message.id,
        role=message.role,
        name=message.name,
        created=message.created,
        text=excerpt(message.content, start, start + length),
        is_wish=bool(is_wish),
    )


def _checksum(texts: Sequence[str]) -> int:
    return zlib.crc32("\n".join(texts).encode())
