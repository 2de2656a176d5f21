"""The connection for work that a connection pooler hinders: migrations, and building indexes for minutes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

DIRECT = "direct"  # DATABASE_DIRECT_URL, among Django's databases


def direct_alias() -> str:
    """The name, among Django's databases, of the one without a pooler in between: the default if no other is set."""
    return DIRECT if DIRECT in connections else "default"


@contextmanager
def direct_connection() -> Iterator[BaseDatabaseWrapper]:
    """A connection to DATABASE_DIRECT_URL, closed at the end; the thread's own connection where it is not set."""
    alias = direct_alias()
    try:
        yield connections[alias]
    finally:
        if alias == DIRECT:
            connections[alias].close()


def is_pooled(connection: BaseDatabaseWrapper) -> bool:
    """Whether a pooler answers in PostgreSQL's place: it cannot know which process will serve the next transaction."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        served_by = cursor.fetchone()
    return bool(served_by != (connection.connection.info.backend_pid,))
