"""Spool -> database, in order, by the same actions that store an exchange directly."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection, transaction

from conversations import actions, policy
from conversations.exchange_sql import planned_once
from proxy.database.reconnecting import error_name, on_database
from proxy.providers import tokens
from proxy.spool.record import Entry
from proxy.spool.segments import (
    REJECTED,
    erase,
    has_owner,
    opened,
    pending,
    read,
    remove_if_stored,
    segments_in,
    set_aside,
    sync_folder,
)
from proxy.spool.tail import Located, Tail, joined
from proxy.spool.writing import SpoolError, summary

log = logging.getLogger(__name__)

MOST = 5000  # records of one replay
# Exchanges of one transaction, and their bytes about. Requests of their scopes wait for it, some tenths of a second.
BATCH, BATCH_BYTES = 40, 2**20

# Classes of PostgreSQL's errors that no retry mends: invalid data, a violated constraint, an exceeded limit.
PERMANENT = ("22", "23", "54")


class Refused(Exception):
    """The database will never accept this record."""


class SpoolBusy(Exception):
    """Another process is replaying the spool."""


def spool_folder() -> Path:
    """Where exchanges wait during an outage of the database."""
    return Path(settings.RESERVOIR_HOME) / "spool"


class Replayed(NamedTuple):
    """Counts of records."""

    stored: int = 0
    rejected: int = 0
    damaged: int = 0


# Stores an entry or raises Refused. The flag says that the process that wrote it is gone: no answer will follow.
Store = Callable[[Entry, bool], None]
# Stores several such pairs, or none and raises anything.
StoreAll = Callable[[Sequence[tuple[Entry, bool]]], None]


def replay(
    folder: Path,
    store: Store,
    *,
    store_all: StoreAll | None = None,
    rejected_too: bool = False,
    wait: bool = False,
    most: int = MOST,
    give_way: Callable[[float], None] = lambda seconds: None,
) -> Replayed:
    """Store pending records with `store` and erase them, until none is left or about `most` are done.

    With `store_all`, many exchanges are stored at once, in a fraction of the time; where that fails, one by one.

    `give_way` is called after each batch with the seconds that it took, and may wait.

    Works scope by scope, each in its order, including records added meanwhile: so even a busy scope soon stores
    directly again.

    A record that `store` raises Refused for moves to `rejected.spool`, and the replay continues. Any other exception
    ends the replay and is raised; the remaining records are there next time. If another process is replaying, `wait`
    waits for it; otherwise SpoolBusy is raised.
    """
    if not folder.is_dir():
        return Replayed()
    with _alone(folder, wait=wait), ExitStack() as closing:
        running = _Replay(folder, store, closing, rejected_too=rejected_too)
        try:
            while running.handled < most and (found := running.next(BATCH if store_all else 1)):
                begun = time.monotonic()
                if not (store_all and running.store_together(found, store_all)):
                    for exchange in found:
                        running.store(exchange)
                give_way(time.monotonic() - begun)
        finally:
            running.sync()
        running.remove_stored()
    if running.damaged:
        log.error("%d damaged records of the spool are lost", running.damaged)
    return Replayed(running.stored, running.rejected, running.damaged)


class _Replay:
    """A replay under way: the open segments, and counts of records."""

    def __init__(self, folder: Path, store: Store, closing: ExitStack, *, rejected_too: bool) -> None:
        self._folder = folder
        self._store = store
        self._closing = closing
        self._segments: dict[str, int] = {}  # name -> file descriptor
        self.stored = self.rejected = self.damaged = 0
        if rejected_too and (folder / REJECTED).exists():
            self._open(REJECTED)
        self.tail = Tail(self._segments, self._open_new)

    @property
    def handled(self) -> int:
        return self.stored + self.rejected + self.damaged

    def next(self, most: int) -> list[list[Located]]:
        """The records of the next exchanges: at most `most`, fewer if they are large."""
        found: list[list[Located]] = []
        size = 0
        while len(found) < most and size < BATCH_BYTES and (exchange := self.tail.next_exchange()):
            found.append(exchange)
            size += sum(record.end - record.offset for _, record in exchange)
        return found

    def store_together(self, found: Sequence[list[Located]], store_all: StoreAll) -> bool:
        """Store the records of several exchanges and erase them. False, and nothing stored, if that fails."""
        entries = [self._read(exchange) for exchange in found]
        if any(len(read) < len(exchange) for read, exchange in zip(entries, found, strict=True)):
            return False
        owned = {exchange[-1][0] for exchange in found}
        owned = {name for name in owned if has_owner(self._segments[name])}
        pairs = [
            (entry, exchange[-1][0] not in owned)
            for read, exchange in zip(entries, found, strict=True)
            for entry in joined(read)
        ]
        try:
            store_all(pairs)
        except Exception as error:
            log.info("records of the spool are stored one by one (%s)", error_name(error))
            return False
        for exchange in found:
            self.damaged += sum(record.skipped > 0 for _, record in exchange)
            self.stored += len(exchange)
            for name, record in exchange:
                erase(self._segments[name], record)
        return True

    def _read(self, found: list[Located]) -> list[Entry]:
        return [entry for name, record in found if (entry := read(self._segments[name], record))]

    def store(self, found: list[Located]) -> None:
        """Store the records of one exchange and erase them."""
        entries = self._read(found)
        self.damaged += len(found) - len(entries) + sum(record.skipped > 0 for _, record in found)
        last_segment = self._segments[found[-1][0]]
        try:
            for entry in joined(entries):
                self._store(entry, not has_owner(last_segment))
            self.stored += len(entries)
        except Refused as error:
            self.rejected += len(entries)
            if found[0][0] == REJECTED:
                return
            log.error("the database refuses exchange %s (%s)", entries[0].asked.trace_id, error)
            for name, record in found:
                set_aside(self._folder, self._segments[name], record)
        for name, record in found:
            erase(self._segments[name], record)

    def sync(self) -> None:
        """Make the erasures durable: a power cut must not bring back records that are forgotten later."""
        for segment in self._segments.values():
            os.fdatasync(segment)

    def remove_stored(self) -> None:
        """Remove the segments that hold no pending record and belong to no process."""
        for name in self._segments:
            remove_if_stored(self._folder / name)

    def _open_new(self) -> None:
        for name in segments_in(self._folder):
            if name not in self._segments:
                with suppress(FileNotFoundError):  # its process has just removed it
                    self._open(name)

    def _open(self, name: str) -> None:
        self._segments[name] = self._closing.enter_context(opened(self._folder / name, os.O_RDWR))


def replay_to_database(
    folder: Path,
    *,
    wait: bool = False,
    rejected_too: bool = False,
    give_way: Callable[[float], None] = lambda seconds: None,
) -> Replayed:
    """Store pending records in the database. Raises what replay() and store_entry() raise."""
    return replay(folder, store_entry, store_all=store_entries, wait=wait, rejected_too=rejected_too, give_way=give_way)


def store_entries(entries: Sequence[tuple[Entry, bool]]) -> None:
    """Store several entries in one transaction, each as store_entry does. Raises what the database does."""

    @transaction.atomic
    def work() -> None:
        actions.lock_scopes(scopes={entry.asked.scope for entry, _ in entries})
        with planned_once():
            for entry, abandoned in entries:
                _store(entry, abandoned)

    try:
        on_database(work)
    except Exception:
        connection.close()  # what it has planned would stay
        raise


def store_entry(entry: Entry, abandoned: bool) -> None:
    """Store an entry in the database, once however often it is called. `abandoned`: no answer will follow.

    Raises django.db.Error if a retry may succeed, Refused if not.
    """
    try:
        on_database(partial(_store, entry, abandoned))
    except DatabaseError as error:
        state = getattr(error.__cause__, "sqlstate", None) or ""
        if state.startswith(PERMANENT):
            raise Refused(error_name(error)) from error
        raise
    except InterfaceError:
        raise
    except Exception as error:
        raise Refused(error_name(error)) from error


def _store(entry: Entry, abandoned: bool) -> None:
    asked, answered, was_opened = entry
    if not policy.is_stored(asked.scope.partition):
        return  # the server that wrote the entry could not read this
    count = tokens.counter(asked.model).count
    if answered:
        actions.close_exchange(asked=asked, answered=answered, count=count, opened=was_opened, replayed=True)
        return
    opened = actions.open_exchange(asked=asked, count=count, replayed=True)
    if abandoned:
        actions.interrupt_exchange(instance_id=opened.instance_id, trace_id=asked.trace_id)


def waiting(folder: Path) -> Iterator[Entry]:
    """The entries of the folder that are not stored yet, segment by segment. Damaged ones are passed over."""
    for name in segments_in(folder):
        with suppress(FileNotFoundError), opened(folder / name) as segment:
            for record in pending(segment):
                if entry := read(segment, record):
                    yield entry


def store_spool(folder: Path | None = None) -> int:
    """Store a whole spool, including records refused before: that of this host, unless `folder` is another. Blocks.

    Returns the number of records stored.

    Raises SpoolError if the database still refuses some, django.db.Error if it does not answer.
    """
    folder = folder or spool_folder()
    tokens.prepare(Path(settings.RESERVOIR_HOME) / "tiktoken")
    stored = 0
    while (done := replay_to_database(folder, wait=True, rejected_too=True)).stored or done.damaged:
        stored += done.stored
    if left := summary(folder)["rejected"]:
        raise SpoolError(
            f"The database refuses {left} exchanges of the spool: `manage.py spool discard` deletes them for good."
        )
    return stored


def discard_rejected(folder: Path) -> int:
    """Delete the records that the database refuses. Returns their number."""
    if not (folder / REJECTED).exists():
        return 0
    with _alone(folder, wait=True):
        count = summary(folder)["rejected"]
        (folder / REJECTED).unlink()
        sync_folder(folder)
    return count


@contextmanager
def _alone(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Lets one process at a time replay. Raises SpoolBusy unless told to wait."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with opened(folder / "replay.lock", os.O_RDWR | os.O_CREAT) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise SpoolBusy("Another process is replaying the spool.") from None
        yield
