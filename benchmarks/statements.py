"""Counts what this process sends to PostgreSQL, by way of psycopg."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import psycopg
from psycopg import sql

VALUES = re.compile(r"'(?:[^']|'')*'|\b\d+\b|%s(?:, ?%s)+")
SHOWN = 160  # characters


class Statements:
    """`sent` counts statements by their shortened text, `calls` the messages to PostgreSQL that brought them."""

    def __init__(self) -> None:
        self.sent: Counter[str] = Counter()
        self.calls = self.transactions = 0

    def note(self, query: Any) -> None:
        """One call of a cursor, which may bring several statements."""
        text = query.as_string() if isinstance(query, sql.Composable) else query
        text = text.decode() if isinstance(text, bytes) else text
        self.calls += 1
        self.sent.update(map(_shortened, filter(str.strip, VALUES.sub("?", text).split(";"))))

    @property
    def round_trips(self) -> int:
        """Calls, and a BEGIN and a COMMIT for each transaction."""
        return self.calls + 2 * self.transactions


def _shortened(statement: str) -> str:
    line = " ".join(statement.split())
    return line if len(line) <= SHOWN else line[: SHOWN - 2] + " …"


@contextmanager
def counted(current: Callable[[], Statements]) -> Iterator[None]:
    """Note what all threads send at `current()`."""
    execute, many, begin = (
        psycopg.Cursor.execute,
        psycopg.Cursor.executemany,
        psycopg.Connection._get_tx_start_command,
    )

    def noted(call: Callable[..., Any]) -> Callable[..., Any]:
        def noting(cursor: Any, query: Any, *rest: Any, **options: Any) -> Any:
            current().note(query)
            return call(cursor, query, *rest, **options)

        return noting

    def noted_begin(connection: Any) -> bytes:
        current().transactions += 1
        return begin(connection)

    with (
        patch.object(psycopg.Cursor, "execute", noted(execute)),
        patch.object(psycopg.Cursor, "executemany", noted(many)),
        patch.object(psycopg.Connection, "_get_tx_start_command", noted_begin),
    ):
        yield
