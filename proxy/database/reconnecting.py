"""Work on the database from a thread that keeps its connection: what is lost is noticed, and told apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from django.db import InterfaceError, OperationalError, connection

__all__ = ["Away", "error_name", "on_database"]

T = TypeVar("T")


class Away(OperationalError):
    """The database cannot be talked to."""


def on_database(work: Callable[[], T]) -> T:
    """Do the work; once more on a new connection where the thread's old one turns out to be dead.

    Raises Away where there is no new one to be had.
    """
    for _ in range(2):
        try:
            return work()
        except (OperationalError, InterfaceError) as error:
            if not _has_lost_connection(error):
                raise
            connection.close()
            lost = error
    raise Away from lost


def _has_lost_connection(error: Exception) -> bool:
    """A server that shuts down, has crashed or does not let us in yet says so before it closes (57P..)."""
    said = getattr(error.__cause__, "sqlstate", None) or ""
    return connection.connection is None or connection.connection.closed or said.startswith(("57P", "08"))


def error_name(error: BaseException) -> str:
    """An error for the log: its class alone, since messages of database errors quote content."""
    return type(error).__name__
