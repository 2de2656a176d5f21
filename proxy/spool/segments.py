"""Edge: the files of the spool, and what a record of an exchange looks like in them.

A segment is appended to by one process, which locks it for as long as it lives, so no process id can lie about who is
alive. A record is

    magic 4 | state 1 | 0 0 0 | length 4 | sequence 8 | scope 8 | exchange 8 | checksums of payload 4 and header 4

and then its payload, JSON in ASCII, in which the magic cannot occur: after a damaged record the next is found again.
Once a record is stored in the database its state says so, and zeros take the place of its words.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from conversations.actions import Answered, Asked, Ledger
from conversations.querysets import Scope
from conversations.turns import Turn

MAGIC = b"\x9fRSV"
HEADER = struct.Struct("<4sB3xIQ8s8sII")
CHECKED = struct.Struct("<IQ8s8sI")  # what the header's checksum is of
STATE_AT = 4
SUFFIX = ".spool"
REJECTED = "rejected.spool"  # what the database refuses for good; only `manage.py spool replay` tries it again


class State(IntEnum):
    """Far apart, so that no flipped bit makes one of the other."""

    PENDING = 0x00
    STORED = 0x0F  # and its payload is zeros


class Entry(NamedTuple):
    """One record: the question, or the answer.

    An answer comes with its question, unless that was kept before (`opened`): then `asked` says only whose it is.
    """

    asked: Asked
    answered: Answered | None = None
    opened: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """A record as it lies in a segment. `payload` is None where its checksum is wrong."""

    offset: int
    end: int
    state: int
    sequence: int
    scope: bytes
    exchange: bytes
    payload: bytes | None
    skipped: int = 0  # bytes before it that are no record


def scope_mark(scope: Scope) -> bytes:
    """8 bytes that stand for a scope."""
    return hashlib.blake2b("\0".join(scope).encode(), digest_size=8).digest()


def exchange_mark(trace_id: UUID) -> bytes:
    """8 bytes that stand for an exchange."""
    return trace_id.bytes[:8]


def encode(entry: Entry) -> bytes:
    """The payload of a record."""
    asked, answered, opened = entry
    told: dict[str, Any] = {
        "asked": {
            **_fields(asked),
            "trace_id": str(asked.trace_id),
            "created": asked.created.isoformat(),
            "turns": [turn.payload for turn in asked.turns],
            "ledger": asked.ledger and {**_fields(asked.ledger), "key": asked.ledger.key.hex()},
        }
    }
    if answered:
        told["opened"] = opened
        told["answered"] = {
            **_fields(answered),
            "finished": answered.finished.isoformat(),
            "turns": [turn.payload for turn in answered.turns],
            "cost": None if answered.cost is None else str(answered.cost),
        }
    return json.dumps(told, ensure_ascii=True, separators=(",", ":")).encode("ascii")


def decode(payload: bytes) -> Entry:
    """Raises ValueError, KeyError or TypeError for what `encode` did not make."""
    told = json.loads(payload)
    asked, answered, ledger = told["asked"], told.get("answered"), told["asked"]["ledger"]
    asked |= {
        "trace_id": UUID(asked["trace_id"]),
        "scope": Scope(*asked["scope"]),
        "created": datetime.fromisoformat(asked["created"]),
        "turns": tuple(_turn(raw) for raw in asked["turns"]),
        "left_out": tuple(asked.get("left_out", ())),
        "prompts": tuple((at, raw) for at, raw in asked["prompts"]),
        "ledger": None,
    }
    if ledger:
        texts = {name: tuple(ledger[name]) for name in ("candidates", "injected", "message_ids")}
        asked["ledger"] = Ledger(**ledger | texts | {"key": bytes.fromhex(ledger["key"])})
    if answered:
        answered |= {
            "finished": datetime.fromisoformat(answered["finished"]),
            "turns": tuple(_turn(raw) for raw in answered["turns"]),
            "cost": None if answered["cost"] is None else Decimal(answered["cost"]),
        }
    return Entry(Asked(**asked), Answered(**answered) if answered else None, told.get("opened", False))


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _turn(raw: str) -> Turn:
    return Turn.from_payload(raw, json.loads(raw))


def frame(payload: bytes, *, sequence: int, scope: bytes, exchange: bytes) -> bytes:
    """A whole record."""
    parts = (len(payload), sequence, scope, exchange, zlib.crc32(payload))
    return HEADER.pack(MAGIC, State.PENDING, *parts, zlib.crc32(CHECKED.pack(*parts))) + payload


def records(handle: int, start: int = 0, *, payloads: bool = True) -> Iterator[Found]:
    """The records of a segment from an offset on. One whose end has not been written is left out.

    Without `payloads` only headers are read, and `payload` is empty.
    """
    at = expected = start
    while head := os.pread(handle, HEADER.size, at):
        magic, state, *parts, own = HEADER.unpack(head.ljust(HEADER.size, b"\0"))
        valid = magic == MAGIC and zlib.crc32(CHECKED.pack(*parts)) == own
        if len(head) < HEADER.size or not valid:
            following = _next_magic(handle, at + 1)
            if following is None:
                return
            at = following
            continue
        length, sequence, scope, exchange, checksum = parts
        end = at + HEADER.size + length
        if os.fstat(handle).st_size < end:
            return
        payload: bytes | None = b""
        if payloads:
            payload = os.pread(handle, length, at + HEADER.size)
            if zlib.crc32(payload) != checksum:
                payload = None
        yield Found(at, end, state, sequence, scope, exchange, payload, skipped=at - expected)
        at = expected = end


def _next_magic(handle: int, at: int) -> int | None:
    while data := os.pread(handle, 2**20, at):
        if (found := data.find(MAGIC)) >= 0:
            return at + found
        at += max(len(data) - len(MAGIC) + 1, 1)
    return None


# --- files ---


def total_size(folder: Path) -> int:
    """Bytes of all segments."""
    try:
        return sum(entry.stat().st_size for entry in os.scandir(folder) if entry.name.endswith(SUFFIX))
    except FileNotFoundError:
        return 0


def pending(segment: int) -> Iterator[Found]:
    """The records that wait to be stored."""
    return (r for r in records(segment, payloads=False) if r.state != State.STORED)


def any_pending(segment: int) -> bool:
    return next(pending(segment), None) is not None


def read(segment: int, record: Found) -> Entry | None:
    """What a record says; None where it is damaged."""
    payload = next(records(segment, record.offset)).payload
    try:
        return decode(payload) if payload is not None else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def erase(segment: int, record: Found) -> None:
    """Mark a record as stored; then zeros take the place of its words."""
    os.pwrite(segment, bytes([State.STORED]), record.offset + STATE_AT)
    start = record.offset + HEADER.size
    os.pwrite(segment, bytes(record.end - start), start)


def set_aside(folder: Path, segment: int, record: Found) -> None:
    """Copy a record to where those lie that the database refuses."""
    data = os.pread(segment, record.end - record.offset, record.offset)
    with opened(folder / REJECTED, os.O_RDWR | os.O_CREAT | os.O_APPEND) as rejected:
        if os.write(rejected, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fdatasync(rejected)
    sync_folder(folder)


def remove_if_stored(path: Path) -> None:
    """Remove a segment that nobody appends to, once everything in it has been stored."""
    with suppress(FileNotFoundError, BlockingIOError), opened(path) as segment:
        fcntl.flock(segment, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while its process lives
        if not any_pending(segment):
            path.unlink()
            sync_folder(path.parent)  # or a power cut brings back what may have been forgotten since


def has_owner(segment: int) -> bool:
    """Whether the process that appends to a segment is alive."""
    try:
        fcntl.flock(segment, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(segment, fcntl.LOCK_UN)
    return False


def is_live(name: str) -> bool:
    return name.endswith(SUFFIX) and name != REJECTED


def segments_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if is_live(entry.name)) if folder.is_dir() else []


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    handle = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        yield handle
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    with opened(folder, os.O_RDONLY | os.O_DIRECTORY) as handle:
        os.fsync(handle)
