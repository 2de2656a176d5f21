"""Edge: one row of a query that PostgreSQL gives up after some time."""

from __future__ import annotations

from typing import Any

from django.db import connection


def one_row(sql: str, parameters: dict[str, Any], *, milliseconds: int, settings: str = "") -> tuple[Any, ...] | None:
    """The first row of a query, None without one. Raises django.db.OperationalError after `milliseconds`; 0: never.

    PostgreSQL compiles nothing, which would take longer than the query. `settings` are statements to run before it.
    All go in one message, which is a transaction: behind a connection pooler the next one may go to another connection.
    """
    limits = f"SELECT set_config('statement_timeout', '{milliseconds:d}', true), set_config('jit', 'off', true); "
    with connection.cursor() as cursor:
        cursor.execute(f"{limits}{settings}{sql}", parameters)
        while cursor.nextset():
            pass
        row: tuple[Any, ...] | None = cursor.fetchone()
        return row
