"""Spool -> database, in order, by the same actions that store an exchange directly."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from django.conf import settings
from django.db import DatabaseError, InterfaceError

from conversations import actions, policy
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


def replay(folder: Path, store: Store, *, rejected_too: bool = False, wait: bool = False, most: int = MOST) -> Replayed:
    """Store pending records with `store` and erase them, until none is left or about `most` are done.

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
            while running.handled < most and (found := running.tail.next_exchange()):
                running.store(found)
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

    def store(self, found: list[Located]) -> None:
        """Store the records of one exchange and erase them."""
        entries = [entry for name, record in found if (entry := read(self._segments[name], record))]
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


def store_entry(entry: Entry, abandoned: bool) -> None:
    """Store an entry in the database, once however often it is called. `abandoned`: no answer will follow.

    Raises django.db.Error if a retry may succeed, Refused if not.
    """
    asked, answered, was_opened = entry
    count = tokens.counter(asked.model).count

    def work() -> None:
        if not policy.is_stored(asked.scope.partition):
            return  # the server that wrote the entry could not read this
        if answered:
            actions.close_exchange(asked=asked, answered=answered, count=count, opened=was_opened, replayed=True)
            return
        actions.open_exchange(asked=asked, count=count, replayed=True)
        if abandoned:
            actions.interrupt_exchange(trace_id=asked.trace_id)

    try:
        on_database(work)
    except DatabaseError as error:
        state = getattr(error.__cause__, "sqlstate", None) or ""
        if state.startswith(PERMANENT):
            raise Refused(error_name(error)) from error
        raise
    except InterfaceError:
        raise
    except Exception as error:
        raise Refused(error_name(error)) from error


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
    while (done := replay(folder, store_entry, wait=True, rejected_too=True)).stored or done.damaged:
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
