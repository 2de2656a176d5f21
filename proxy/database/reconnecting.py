"""Runs database work on threads that keep their connections, and replaces connections that were lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from django.db import InterfaceError, InternalError, OperationalError, connection

__all__ = ["DatabaseUnavailable", "error_name", "on_database"]

T = TypeVar("T")


class DatabaseUnavailable(OperationalError):
    """No connection to the database can be made."""


def on_database(work: Callable[[], T]) -> T:
    """Do the work; if the thread's connection turns out to be lost, do it once more on a new one.

    Raises DatabaseUnavailable if the new connection fails as well, and whatever else the work raises.
    """
    for _ in range(2):
        try:
            return work()
        except (OperationalError, InterfaceError, InternalError) as error:
            if not _has_lost_connection(error):
                raise
            connection.close()
            lost = error
    raise DatabaseUnavailable from lost


def _has_lost_connection(error: Exception) -> bool:
    """Before it closes, a server that shuts down, has crashed or is starting up sends an error of class 57P.

    A server that takes no writes (25006) has become a replica, or the connection went to one: the primary is elsewhere.
    """
    state = getattr(error.__cause__, "sqlstate", None) or ""
    return connection.connection is None or connection.connection.closed or state.startswith(("57P", "08", "25006"))


def error_name(error: BaseException) -> str:
    """The name of an error's class, for the log: messages of database errors quote content."""
    return type(error).__name__
