"""Edge: the files of the spool. Each is a segment, a sequence of records (record.py).

One process appends to a segment and locks it for its lifetime: the lock, unlike a process id, always tells whether
that process is alive.
"""

from __future__ import annotations

import errno
import fcntl
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from proxy.spool.record import HEADER, MAGIC, STATE_AT, Entry, State, decode, read_header

SUFFIX = ".spool"
REJECTED = "rejected.spool"  # records that the database refuses for good; only `manage.py spool replay` retries them


@dataclass(frozen=True, slots=True)
class Found:
    """A record in a segment. `payload` is None if its checksum is wrong."""

    offset: int
    end: int
    state: int
    sequence: int
    scope: bytes
    exchange: bytes
    payload: bytes | None
    skipped: int = 0  # damaged bytes before it


def records(handle: int, start: int = 0, *, payloads: bool = True) -> Iterator[Found]:
    """The records of a segment from an offset on, except a last one that is not completely written.

    Without `payloads`, only headers are read, and `payload` is empty.
    """
    at = expected = start
    while head := os.pread(handle, HEADER.size, at):
        header = read_header(head)
        if header is None:
            following = _next_magic(handle, at + 1)
            if following is None:
                return
            at = following
            continue
        end = at + HEADER.size + header.length
        if os.fstat(handle).st_size < end:
            return
        payload: bytes | None = b""
        if payloads:
            payload = os.pread(handle, header.length, at + HEADER.size)
            if zlib.crc32(payload) != header.checksum:
                payload = None
        skipped = at - expected
        yield Found(at, end, header.state, header.sequence, header.scope, header.exchange, payload, skipped)
        at = expected = end


def _next_magic(handle: int, at: int) -> int | None:
    while data := os.pread(handle, 2**20, at):
        if (found := data.find(MAGIC)) >= 0:
            return at + found
        at += max(len(data) - len(MAGIC) + 1, 1)
    return None


def total_size(folder: Path) -> int:
    """The size of all segments in bytes."""
    try:
        return sum(entry.stat().st_size for entry in os.scandir(folder) if entry.name.endswith(SUFFIX))
    except FileNotFoundError:
        return 0


def pending(segment: int) -> Iterator[Found]:
    """The records that are not stored in the database yet."""
    return (r for r in records(segment, payloads=False) if r.state != State.STORED)


def any_pending(segment: int) -> bool:
    return next(pending(segment), None) is not None


def read(segment: int, record: Found) -> Entry | None:
    """The content of a record, None if it is damaged."""
    payload = next(records(segment, record.offset)).payload
    try:
        return decode(payload) if payload is not None else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def erase(segment: int, record: Found) -> None:
    """Mark a record as stored, then overwrite its payload with zeros."""
    os.pwrite(segment, bytes([State.STORED]), record.offset + STATE_AT)
    start = record.offset + HEADER.size
    os.pwrite(segment, bytes(record.end - start), start)


def set_aside(folder: Path, segment: int, record: Found) -> None:
    """Copy a record to REJECTED."""
    data = os.pread(segment, record.end - record.offset, record.offset)
    with opened(folder / REJECTED, os.O_RDWR | os.O_CREAT | os.O_APPEND) as rejected:
        if os.write(rejected, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fdatasync(rejected)
    sync_folder(folder)


def remove_if_stored(path: Path) -> None:
    """Remove a segment whose process is gone and whose records are all stored."""
    with suppress(FileNotFoundError, BlockingIOError), opened(path) as segment:
        fcntl.flock(segment, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its process lives
        if not any_pending(segment):
            path.unlink()
            sync_folder(path.parent)  # otherwise a power cut could bring back records that were forgotten since


def has_owner(segment: int) -> bool:
    """Whether the process that appends to a segment is alive."""
    try:
        fcntl.flock(segment, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(segment, fcntl.LOCK_UN)
    return False


def is_live(name: str) -> bool:
    """Whether a file of this name is a segment to replay."""
    return name.endswith(SUFFIX) and name != REJECTED


def segments_in(folder: Path) -> list[str]:
    """The names of the segments to replay."""
    return sorted(entry.name for entry in os.scandir(folder) if is_live(entry.name)) if folder.is_dir() else []


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    """A file descriptor, closed when the context ends."""
    handle = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        yield handle
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Make created and removed files durable."""
    with opened(folder, os.O_RDONLY | os.O_DIRECTORY) as handle:
        os.fsync(handle)
