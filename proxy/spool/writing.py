"""Stores exchanges on disk while PostgreSQL is unreachable. replaying.py moves them to the database afterwards.

RESERVOIR_HOME/spool holds the segments of all processes (see segments.py). A record's future is done once the record
is on disk; records of several exchanges share an fsync.

Records are ordered by their sequence number, a Lamport clock: before a process appends, it reads what all others wrote.
So if a client began an exchange after another had ended, its record comes later, whichever processes served the two
and whatever the system's clock does. A scope with records here stores nothing directly: `holds` tells.

Request headers never come here, hence no API keys.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import queue
import secrets
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

from conversations.querysets import Scope
from proxy.spool.record import STATE_AT, Entry, State, encode, exchange_mark, frame, scope_mark
from proxy.spool.segments import (
    REJECTED,
    SUFFIX,
    any_pending,
    is_live,
    opened,
    pending,
    records,
    sync_folder,
    total_size,
)

SEGMENT = 16 * 2**20  # bytes; a larger segment is followed by a new one

Job = tuple[Callable[[], Entry], Future[None]]  # makes a record; done when that is on disk
Tidy = Future[None]  # asks to remove the segment if it may go; done when that is decided

log = logging.getLogger(__name__)


class SpoolError(Exception):
    """A record could not be stored; the message says why in one sentence."""


class Spool:
    """This process's part of the spool. `limit` is in bytes, for the segments of all processes together.

    At the limit further records are refused: requests are still served, but not stored.
    """

    def __init__(self, folder: Path, *, limit: int) -> None:
        self._folder = folder
        self._limit = limit
        self._index = Index(folder)
        self._queue: queue.SimpleQueue[Job | Tidy | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._segment: int | None = None  # file descriptor, locked
        self._path = folder
        self._size = 0
        self._segments = 0
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}"

    def keep(self, make: Callable[[], Entry]) -> Future[None]:
        """Append the record that `make`, called on the spool's thread, returns.

        The future is done once the record is on disk, and raises SpoolError if it cannot be stored.
        """
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()  # cancelling the wait does not cancel the write
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="spool", daemon=True)
            self._thread.start()
        self._queue.put((make, future))
        return future

    def holds(self, scope: Scope) -> int:
        """The number of the scope's pending records, of all processes. Takes some microseconds."""
        return self._index.holds(scope)

    def pending(self) -> int:
        """The number of pending records, of all processes."""
        return self._index.pending()

    def tidy(self) -> None:
        """Remove this process's segment if all its records are stored in the database. Blocks."""
        if self._segment is not None:
            future: Future[None] = Future()
            self._queue.put(future)
            future.result()

    def close(self) -> None:
        """Write what is queued and close the segment. Blocks."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    # The methods below run on the spool's thread.

    def _run(self) -> None:
        running = True
        while running:
            waiting = [self._queue.get()]
            with suppress(queue.Empty):
                while True:
                    waiting.append(self._queue.get_nowait())
            running = None not in waiting
            batch = [item for item in waiting if isinstance(item, tuple)]
            try:
                self._write(batch)
            except Exception as error:
                log.exception("the spool could not be written")
                for _, future in batch:
                    if not future.done():
                        future.set_exception(SpoolError(f"the spool failed ({type(error).__name__})"))
            for item in waiting:
                if isinstance(item, Future):
                    self._remove_if_stored()
                    item.set_result(None)
        self._remove_if_stored()
        self._close_segment()

    def _write(self, batch: list[Job]) -> None:
        """Append records with one fsync. If one cannot be made, only that one fails."""
        fitting = self._fitting(self._framed(batch))
        if not fitting:
            return
        try:
            self._append(b"".join(data for data, _ in fitting))
        except OSError as error:
            for _, future in fitting:
                future.set_exception(SpoolError(f"the disk refused it ({os.strerror(error.errno or 0)})"))
        else:
            for _, future in fitting:
                future.set_result(None)

    def _framed(self, batch: list[Job]) -> list[tuple[bytes, Future[None]]]:
        """The records as bytes, numbered."""
        framed: list[tuple[bytes, Future[None]]] = []
        sequence = self._index.latest() if batch else 0
        for make, future in batch:
            try:
                entry = make()
                payload = encode(entry)
            except Exception as error:
                future.set_exception(SpoolError(f"it could not be encoded ({type(error).__name__})"))
                continue
            sequence += 1
            scope, exchange = scope_mark(entry.asked.scope), exchange_mark(entry.asked.trace_id)
            framed.append((frame(payload, sequence=sequence, scope=scope, exchange=exchange), future))
        return framed

    def _fitting(self, framed: list[tuple[bytes, Future[None]]]) -> list[tuple[bytes, Future[None]]]:
        """The records that the limit has room for; the futures of the others fail."""
        room = self._limit - total_size(self._folder) if framed else 0
        fitting: list[tuple[bytes, Future[None]]] = []
        for data, future in framed:
            if len(data) > room:
                future.set_exception(SpoolError("the spool is full: see RESERVOIR_SPOOL_LIMIT"))
            else:
                room -= len(data)
                fitting.append((data, future))
        return fitting

    def _append(self, data: bytes) -> None:
        if self._segment is None or self._size >= SEGMENT:
            self._close_segment()
            try:
                self._begin_segment()
            except FileNotFoundError:
                self._begin_segment()
        assert self._segment is not None
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(self._segment, data[written:], self._size + written)
            os.fdatasync(self._segment)
        except OSError:
            # After a failed fsync the content of the file is unknown: the next record goes into a new segment.
            with suppress(OSError):
                os.ftruncate(self._segment, self._size)
                os.fsync(self._segment)
            self._close_segment()
            raise
        self._size += len(data)

    def _begin_segment(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._segments += 1
        path = self._folder / f"{self._name}-{self._segments:06}{SUFFIX}"
        segment = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(segment, fcntl.LOCK_EX)
            sync_folder(self._folder)
            if not path.exists():  # a replay removed it before it was locked, as one without a process
                raise FileNotFoundError(errno.ENOENT, "")
        except OSError:
            os.close(segment)
            raise
        self._segment, self._path, self._size = segment, path, 0

    def _remove_if_stored(self) -> None:
        try:
            if self._segment is not None and not any_pending(self._segment):
                self._path.unlink(missing_ok=True)
                self._close_segment()
                sync_folder(self._folder)
        except OSError as error:
            log.warning("a segment of the spool could not be removed (%s)", os.strerror(error.errno or 0))

    def _close_segment(self) -> None:
        if self._segment is not None:
            os.close(self._segment)
            self._segment = None


class Index:
    """Pending records by scope, kept up to date by reading only what is new."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._read: dict[str, int] = {}  # segment -> offset
        self._pending: dict[bytes, deque[tuple[str, int]]] = {}
        self._latest = 0

    def holds(self, scope: Scope) -> int:
        with self._lock:
            self._catch_up()
            return self._count(scope_mark(scope)) if self._pending else 0

    def pending(self) -> int:
        with self._lock:
            self._catch_up()
            return sum(self._count(mark) for mark in list(self._pending))

    def latest(self) -> int:
        """The highest sequence number so far, of all processes."""
        with self._lock:
            self._catch_up()
            return self._latest

    def _catch_up(self) -> None:
        try:
            found = {entry.name: entry.stat().st_size for entry in os.scandir(self._folder) if is_live(entry.name)}
        except FileNotFoundError:
            found = {}
        for name in self._read.keys() - found.keys():
            del self._read[name]
        for name, size in found.items():
            if size > self._read.get(name, 0):
                with suppress(FileNotFoundError), opened(self._folder / name) as segment:
                    for record in records(segment, self._read.get(name, 0), payloads=False):
                        self._read[name] = record.end
                        self._latest = max(self._latest, record.sequence)
                        if record.state != State.STORED:
                            self._pending.setdefault(record.scope, deque()).append((name, record.offset))

    def _count(self, mark: bytes) -> int:
        """The number of a scope's pending records. Drops those stored meanwhile, which come first."""
        waiting = self._pending.get(mark)
        while waiting:
            name, offset = waiting[0]
            with suppress(FileNotFoundError), opened(self._folder / name) as segment:
                if os.pread(segment, 1, offset + STATE_AT) not in (b"", bytes([State.STORED])):
                    return len(waiting)
            waiting.popleft()
        self._pending.pop(mark, None)
        return 0


def summary(folder: Path) -> dict[str, int]:
    """Counts of the records `waiting` and `rejected`, and the size of all segments in `bytes`."""
    waiting = rejected = 0
    for path in folder.glob(f"*{SUFFIX}"):
        with suppress(FileNotFoundError), opened(path) as segment:
            count = sum(1 for _ in pending(segment))
            if path.name == REJECTED:
                rejected += count
            else:
                waiting += count
    return {"waiting": waiting, "rejected": rejected, "bytes": total_size(folder)}
