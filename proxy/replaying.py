"""What waits in the spool -> the database, by the same actions that store an exchange at once."""

from __future__ import annotations

from pathlib import Path

from django.conf import settings
from django.db import DatabaseError, InterfaceError

from conversations import actions
from conversations.models import Exchange
from proxy import tokens
from proxy.database import named, on_database
from proxy.segments import Entry
from proxy.spool import Refused, SpoolError, replay, summary


def spool_folder() -> Path:
    """Where exchanges wait while the database is away."""
    return Path(settings.RESERVOIR_HOME) / "spool"


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
            raise Refused(named(error)) from error
        raise
    except InterfaceError:
        raise
    except Exception as error:
        raise Refused(named(error)) from error


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
