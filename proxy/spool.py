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
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from conversations.querysets import Scope
from proxy.segments import (
    REJECTED,
    STATE_AT,
    SUFFIX,
    Entry,
    Found,
    State,
    any_pending,
    encode,
    erase,
    exchange_mark,
    frame,
    has_owner,
    is_live,
    opened,
    pending,
    read,
    records,
    remove_if_stored,
    scope_mark,
    segments_in,
    set_aside,
    sync_folder,
    total_size,
)

SEGMENT = 16 * 2**20  # bytes after which a new segment is begun

log = logging.getLogger(__name__)


class SpoolError(Exception):
    """A record could not be kept; the message says why in one sentence."""


class Refused(Exception):
    """The database will never accept this record."""


class SpoolBusy(Exception):
    """Another process is replaying the spool."""


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


# --- replaying ----------------------------------------------------------------------------------------


class Replayed(NamedTuple):
    stored: int = 0
    rejected: int = 0
    damaged: int = 0


# Stores one entry, or raises Refused. The flag says that the process that wrote it is gone: no answer will follow.
Store = Callable[[Entry, bool], None]


def replay(
    folder: Path,
    store: Store,
    *,
    rejected_too: bool = False,
    wait: bool = False,
    most: int = 5000,
) -> Replayed:
    """Store what waits, at most so many records or a few more. What is stored is erased here.

    One scope after the other, each in its order, and what is added to a scope meanwhile with it: so a scope soon stores
    directly again, however busy it is.

    A record that `store` raises Refused for is set aside in `rejected.spool`, and the others go on. Any other exception
    ends the replay and is raised; what was not stored is there next time.
    Where another process is at it: waits for it, or raises SpoolBusy.
    """
    stored = rejected = damaged = 0
    if not folder.is_dir():
        return Replayed()
    with _alone(folder, wait=wait), ExitStack() as closing:
        segments: dict[str, int] = {}
        if rejected_too and (folder / REJECTED).exists():
            segments[REJECTED] = closing.enter_context(opened(folder / REJECTED, os.O_RDWR))

        def open_new() -> None:
            for name in segments_in(folder):
                if name not in segments:
                    with suppress(FileNotFoundError):  # its process has removed it just now
                        segments[name] = closing.enter_context(opened(folder / name, os.O_RDWR))

        tail = _Tail(segments, open_new)
        try:
            while stored + rejected + damaged < most and (found := tail.next_exchange()):
                damaged += sum(record.skipped > 0 for _, record in found)
                entries = [entry for name, record in found if (entry := read(segments[name], record))]
                damaged += len(found) - len(entries)
                try:
                    for entry in joined(entries):
                        store(entry, not has_owner(segments[found[-1][0]]))
                    stored += len(entries)
                except Refused as error:
                    rejected += len(entries)
                    if found[0][0] == REJECTED:
                        continue
                    log.error("the database refuses exchange %s (%s)", entries[0].asked.trace_id, error)
                    for name, record in found:
                        set_aside(folder, segments[name], record)
                for name, record in found:
                    erase(segments[name], record)
        finally:
            # A power cut must not bring back what is forgotten after this.
            for segment in segments.values():
                os.fdatasync(segment)
        for name in segments:
            remove_if_stored(folder / name)
    if damaged:
        log.error("%d records of the spool were damaged and are lost", damaged)
    return Replayed(stored, rejected, damaged)


class _Tail:
    """The records that wait in the segments, handed out exchange by exchange, and looked for as they are added.

    `open_new` adds the segments that have been begun since.
    """

    def __init__(self, segments: dict[str, int], open_new: Callable[[], None]) -> None:
        self._segments = segments
        self._open_new = open_new
        self._read: dict[str, int] = {}
        self._waiting: dict[bytes, dict[bytes, list[tuple[str, Found]]]] = {}  # scope -> exchange -> its records
        self._scope = b""
        self._look()

    def next_exchange(self) -> list[tuple[str, Found]]:
        """The records of one exchange, with their segments; empty when nothing waits.

        A question and its answer come together: storing them at once is half the work.
        """
        if not self._waiting.get(self._scope):
            self._look()
            self._waiting = {scope: exchanges for scope, exchanges in self._waiting.items() if exchanges}
            if self._scope not in self._waiting:
                self._scope = next(iter(self._waiting), b"")
        exchanges = self._waiting.get(self._scope)
        return exchanges.pop(next(iter(exchanges))) if exchanges else []

    def _look(self) -> None:
        """Add all that is new.

        While segments are looked at one after the other, a record may be written into one that has been looked at, or
        into a new one, and the record that follows it into one that has not. So it goes on until there is nothing new.
        """
        new: list[tuple[int, str, Found]] = []
        while found := self._unread():
            new += [(record.sequence, name, record) for name, record in found if record.state != State.STORED]
        for _, name, record in sorted(new, key=lambda item: (item[0], item[1], item[2].offset)):
            self._waiting.setdefault(record.scope, {}).setdefault(record.exchange, []).append((name, record))

    def _unread(self) -> list[tuple[str, Found]]:
        self._open_new()
        found = []
        for name, segment in self._segments.items():
            for record in records(segment, self._read.get(name, 0), payloads=False):
                self._read[name] = record.end
                found.append((name, record))
        return found


def joined(entries: list[Entry]) -> list[Entry]:
    """A question and its answer, kept one after the other, as one entry; all else as it is."""
    if len(entries) == 2 and not entries[0].answered and entries[1].answered:
        return [Entry(entries[0].asked, entries[1].answered)]
    return entries


def discard_rejected(folder: Path) -> int:
    """Give up what the database refuses. Returns how many records that were."""
    if not (folder / REJECTED).exists():
        return 0
    with _alone(folder, wait=True):
        count = summary(folder)["rejected"]
        (folder / REJECTED).unlink()
        sync_folder(folder)
    return count


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


@contextmanager
def _alone(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """One process at a time replays."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with opened(folder / "replay.lock", os.O_RDWR | os.O_CREAT) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise SpoolBusy("Another process is storing what the spool holds.") from None
        yield
