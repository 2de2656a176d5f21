"""Locks of one process at a time: exclusive, waited for, and no hindrance to others."""

from __future__ import annotations

import threading

import pytest
from django.db import connection

from conversations.direct import is_pooled
from conversations.locks import held

pytestmark = pytest.mark.django_db(transaction=True)
KEY = 0x5265_7400


def test_a_lock_is_held_once_and_free_afterwards() -> None:
    with held(KEY) as first, held(KEY) as second, held(KEY, "a name") as named, held(KEY, "another") as other:
        assert (first, second, named, other) == (True, False, True, True)
    with held(KEY) as again:
        assert again


def test_who_waits_gets_it_next() -> None:
    got = threading.Event()

    def wait() -> None:
        with held(KEY, wait=True) as free:
            assert free
            got.set()

    waiting = threading.Thread(target=wait)
    with held(KEY):
        waiting.start()
        assert not got.wait(1)
    assert got.wait(300)
    waiting.join(300)


def test_a_held_lock_keeps_no_snapshot() -> None:
    """Otherwise VACUUM would spare dead rows, and CREATE INDEX CONCURRENTLY would wait."""
    with held(KEY), connection.cursor() as cursor:
        cursor.execute(
            """SELECT a.state, a.backend_xid IS NULL AND a.backend_xmin IS NULL FROM pg_stat_activity a
               JOIN pg_locks l USING (pid) WHERE l.locktype = 'advisory' AND l.objid = %s""",
            [KEY],
        )
        assert cursor.fetchall() == [("idle in transaction", True)]


def test_a_direct_connection_is_seen_as_one() -> None:
    connection.ensure_connection()
    assert not is_pooled(connection)
