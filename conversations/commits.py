"""When a commit need not wait for the disk."""

from __future__ import annotations

from django.db import connection


def commit_soon() -> None:
    """Let the transaction at hand commit without waiting for the disk: PostgreSQL writes it out within a second.

    For what may be lost if PostgreSQL itself crashes in that second, because it would just be done again:
    https://www.postgresql.org/docs/current/wal-async-commit.html.
    """
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL synchronous_commit TO off")
