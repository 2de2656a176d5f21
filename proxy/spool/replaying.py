"""What waits in the spool -> the database, in order, by the same actions that store an exchange at once."""

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

from conversations import actions
from conversations.models import Exchange
from proxy.database.reconnecting import error_name, on_database
from proxy.providers import tokens
from proxy.spool.segments import (
    REJECTED,
    Entry,
    erase,
    has_owner,
    opened,
    read,
    remove_if_stored,
    segments_in,
    set_aside,
    sync_folder,
)
from proxy.spool.tail import Tail, joined
from proxy.spool.writing import SpoolError, summary

log = logging.getLogger(__name__)


class Refused(Exception):
    """The database will never accept this record."""


class SpoolBusy(Exception):
    """Another process is replaying the spool."""


def spool_folder() -> Path:
    """Where exchanges wait while the database is away."""
    return Path(settings.RESERVOIR_HOME) / "spool"


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

        tail = Tail(segments, open_new)
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


# What PostgreSQL says of a record that it will never accept: its data, a constraint, a limit of the program.
NEVER = ("22", "23", "54")


def store_entry(entry: Entry, abandoned: bool) -> None:
    """Store what the spool holds. Twice is once. `abandoned` says that nobody is left to answer it.

    Raises django.db.Error when it may succeed later, Refused when it will not.
    """
    asked, answered, opened = entry
    count = tokens.counter(asked.model).count

    def work() -> None:
        if answered:
            actions.close_exchange(asked=asked, answered=answered, count=count, opened=opened)
            return
        exchange = actions.open_exchange(asked=asked, count=count)
        if abandoned:
            Exchange.objects.filter(pk=exchange.pk, ended=Exchange.Ended.OPEN).update(ended=Exchange.Ended.INTERRUPTED)

    try:
        on_database(work)
    except DatabaseError as error:
        state = getattr(error.__cause__, "sqlstate", None) or ""
        if state.startswith(NEVER):
            raise Refused(error_name(error)) from error
        raise
    except InterfaceError:
        raise
    except Exception as error:
        raise Refused(error_name(error)) from error


def store_spool() -> int:
    """Store everything that the spool holds, also what was refused before. Blocks. Returns how many records.

    Raises SpoolError when something is left that the database refuses, django.db.Error when it does not answer.
    """
    tokens.prepare(Path(settings.RESERVOIR_HOME) / "tiktoken")
    stored = 0
    while (done := replay(spool_folder(), store_entry, wait=True, rejected_too=True)).stored or done.damaged:
        stored += done.stored
    if left := summary(spool_folder())["rejected"]:
        raise SpoolError(
            f"The database refuses {left} exchanges of the spool: `manage.py spool discard` gives them up for good."
        )
    return stored


def discard_rejected(folder: Path) -> int:
    """Give up what the database refuses. Returns how many records that were."""
    if not (folder / REJECTED).exists():
        return 0
    with _alone(folder, wait=True):
        count = summary(folder)["rejected"]
        (folder / REJECTED).unlink()
        sync_folder(folder)
    return count


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
