"""Commits that need not wait for the disk."""

from __future__ import annotations

from django.db import connection


def commit_soon() -> None:
    """Let the current transaction commit without waiting for the disk; PostgreSQL writes it within a second.

    For work that would simply be repeated if PostgreSQL crashed in that second and lost it:
    https://www.postgresql.org/docs/current/wal-async-commit.html.
    """
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL synchronous_commit TO off")
