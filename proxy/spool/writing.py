"""Exchanges kept on disk while PostgreSQL is away, and stored in order when it is back.

RESERVOIR_HOME/spool holds the segments of all processes (segments.py says how they look). A record is on disk before
whoever waits for it goes on; records of several exchanges share an fsync.

Order is that of the sequence, a Lamport clock: whoever appends has looked at what all others wrote. So an exchange that
a client began after another one had ended comes after it, whichever processes served the two, and whatever the
system's clock does. A scope that has a record here stores nothing past it: `holds` says so.

Headers of requests never come here, hence no keys.
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
from proxy.spool.segments import (
    REJECTED,
    STATE_AT,
    SUFFIX,
    Entry,
    State,
    any_pending,
    encode,
    exchange_mark,
    frame,
    is_live,
    opened,
    pending,
    records,
    scope_mark,
    sync_folder,
    total_size,
)

SEGMENT = 16 * 2**20  # bytes after which a new segment is begun

log = logging.getLogger(__name__)


class SpoolError(Exception):
    """A record could not be kept; the message says why in one sentence."""


class Spool:
    """This process's side of the spool. `limit` is in bytes, for the segments of all processes together.

    When they have reached it, further records are refused: clients go on being served, and what they say is not kept.
    """

    def __init__(self, folder: Path, *, limit: int) -> None:
        self._folder = folder
        self._limit = limit
        self._index = Index(folder)
        self._queue: queue.SimpleQueue[tuple[Callable[[], Entry], Future[None]] | Future[None] | None]
        self._queue = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._segment: int | None = None  # file descriptor, locked
        self._path = folder
        self._size = 0
        self._segments = 0
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}"

    def keep(self, make: Callable[[], Entry]) -> Future[None]:
        """Append a record; the future is done when it is on disk. `make` runs on the spool's thread.

        The future raises SpoolError where it cannot be kept.
        """
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()  # whoever stops waiting for it does not undo it
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="spool", daemon=True)
            self._thread.start()
        self._queue.put((make, future))
        return future

    def holds(self, scope: Scope) -> int:
        """How many records of the scope, of all processes, wait to be stored. Some microseconds."""
        return self._index.holds(scope)

    def pending(self) -> int:
        """How many records wait to be stored, of all processes."""
        return self._index.pending()

    def tidy(self) -> None:
        """Remove this process's segment if everything in it has been stored."""
        if self._segment is not None:
            future: Future[None] = Future()
            self._queue.put(future)
            future.result()

    def close(self) -> None:
        """Write what is waiting and let go of the segment."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    # What follows runs on the spool's thread.

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
        self._let_go()

    def _write(self, batch: list[tuple[Callable[[], Entry], Future[None]]]) -> None:
        """Append records and make them durable together; each that cannot be made fails alone."""
        framed: list[tuple[bytes, Future[None]]] = []
        sequence = self._index.latest() if batch else 0
        for make, future in batch:
            try:
                entry = make()
                payload = encode(entry)
            except Exception as error:
                future.set_exception(SpoolError(f"it could not be written down ({type(error).__name__})"))
                continue
            sequence += 1
            scope, exchange = scope_mark(entry.asked.scope), exchange_mark(entry.asked.trace_id)
            framed.append((frame(payload, sequence=sequence, scope=scope, exchange=exchange), future))
        room = self._limit - total_size(self._folder) if framed else 0
        fitting: list[tuple[bytes, Future[None]]] = []
        for data, future in framed:
            room -= len(data)
            if room < 0:
                room += len(data)
                future.set_exception(SpoolError("the spool is full: see RESERVOIR_SPOOL_LIMIT"))
            else:
                fitting.append((data, future))
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

    def _append(self, data: bytes) -> None:
        if self._segment is None or self._size >= SEGMENT:
            self._let_go()
            try:
                self._begin()
            except FileNotFoundError:
                self._begin()
        assert self._segment is not None
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(self._segment, data[written:], self._size + written)
            os.fdatasync(self._segment)
        except OSError:
            # After a failed fsync nobody knows what is on disk: the next record goes into a new segment.
            with suppress(OSError):
                os.ftruncate(self._segment, self._size)
                os.fsync(self._segment)
            self._let_go()
            raise
        self._size += len(data)

    def _begin(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._segments += 1
        path = self._folder / f"{self._name}-{self._segments:06}{SUFFIX}"
        segment = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(segment, fcntl.LOCK_EX)
            sync_folder(self._folder)
            if not path.exists():  # taken for a dead process's before it was locked, and removed
                raise FileNotFoundError(errno.ENOENT, "")
        except OSError:
            os.close(segment)
            raise
        self._segment, self._path, self._size = segment, path, 0

    def _remove_if_stored(self) -> None:
        try:
            if self._segment is not None and not any_pending(self._segment):
                self._path.unlink(missing_ok=True)
                self._let_go()
                sync_folder(self._folder)
        except OSError as error:
            log.warning("a segment of the spool could not be removed (%s)", os.strerror(error.errno or 0))

    def _let_go(self) -> None:
        if self._segment is not None:
            os.close(self._segment)
            self._segment = None


class Index:
    """Which scopes have records that wait, kept up to date by reading only what is new."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._read: dict[str, int] = {}  # segment -> how far
        self._waiting: dict[bytes, deque[tuple[str, int]]] = {}
        self._latest = 0

    def holds(self, scope: Scope) -> int:
        with self._lock:
            self._catch_up()
            return self._count(scope_mark(scope)) if self._waiting else 0

    def pending(self) -> int:
        with self._lock:
            self._catch_up()
            return sum(self._count(mark) for mark in list(self._waiting))

    def latest(self) -> int:
        """The highest sequence that anybody has given so far."""
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
                            self._waiting.setdefault(record.scope, deque()).append((name, record.offset))

    def _count(self, mark: bytes) -> int:
        """How many records of a scope wait; drops those that do no longer, which are its first."""
        waiting = self._waiting.get(mark)
        while waiting:
            name, offset = waiting[0]
            with suppress(FileNotFoundError), opened(self._folder / name) as segment:
                if os.pread(segment, 1, offset + STATE_AT) not in (b"", bytes([State.STORED])):
                    return len(waiting)
            waiting.popleft()
        self._waiting.pop(mark, None)
        return 0


def summary(folder: Path) -> dict[str, int]:
    """How many records wait, how many were rejected, and the bytes of it all."""
    waiting = rejected = 0
    for path in folder.glob(f"*{SUFFIX}"):
        with suppress(FileNotFoundError), opened(path) as segment:
            count = sum(1 for _ in pending(segment))
            if path.name == REJECTED:
                rejected += count
            else:
                waiting += count
    return {"waiting": waiting, "rejected": rejected, "bytes": total_size(folder)}
