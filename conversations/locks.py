"""Locks that one process at a time holds. They work behind a connection pooler, and end with the process.

Each lock belongs to an open transaction on a connection of its own. A pooler may run every transaction of a client on
another connection to PostgreSQL, where a session's lock would stay behind. The transaction keeps neither a snapshot nor
a transaction id, so it delays neither VACUUM nor CREATE INDEX CONCURRENTLY, however long it lasts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from django.db import connection

POLL_SECONDS = 0.2


@contextmanager
def held(key: int, name: str | None = None, *, wait: bool = False) -> Iterator[bool]:
    """Hold the lock of this key, or of this key and name. Yields whether it was free.

    `wait` waits until it is. Raises django.db.Error.
    """
    with connection.wrap_database_errors:
        lock = connection.get_new_connection(connection.get_connection_params())
    try:
        with connection.wrap_database_errors:
            lock.isolation_level = psycopg.IsolationLevel.READ_COMMITTED  # any other level keeps its snapshot
            # Polls instead of waiting: CREATE INDEX CONCURRENTLY waits for every waiting transaction.
            while not (free := _take(lock, key, name)) and wait:
                lock.rollback()  # a pooler can lend the connection to the process that has the lock
                time.sleep(POLL_SECONDS)
        yield free
    finally:
        with suppress(psycopg.Error):  # lost with its connection
            lock.rollback()
        lock.close()


def _take(lock: Any, key: int, name: str | None) -> bool:
    lock.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
    if name is None:
        row = lock.execute("SELECT pg_try_advisory_xact_lock(%s)", [key]).fetchone()
    else:
        row = lock.execute("SELECT pg_try_advisory_xact_lock(%s, hashtext(%s))", [key, name]).fetchone()
    return bool(row[0])
