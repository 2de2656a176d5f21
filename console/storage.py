"""Disk usage according to PostgreSQL's statistics; no rows are counted."""

from __future__ import annotations

from dataclasses import dataclass

from django.db import connection

SQL = """
SELECT c.relname, pg_total_relation_size(c.oid), nullif(greatest(c.reltuples, 0), 0)::bigint
FROM pg_class c WHERE c.relname = ANY(%s) AND c.relkind = 'r' AND pg_table_is_visible(c.oid)
"""

NAMES = {
    "conversations_message": "messages",
    "conversations_embedding": "embeddings",
    "conversations_exchange": "exchanges",
    "conversations_ledger": "ledgers",
    "conversations_instance": "conversations",
}


@dataclass(frozen=True, slots=True)
class Table:
    """A table: bytes with its indexes, and approximate rows; None before PostgreSQL has analysed it."""

    name: str
    size: int
    rows: int | None


def tables() -> list[Table]:
    """The tables that grow, largest first."""
    with connection.cursor() as cursor:
        cursor.execute(SQL, [list(NAMES)])
        found = [Table(NAMES[name], size, rows) for name, size, rows in cursor.fetchall()]
    return sorted(found, key=lambda table: -table.size)


def share(messages: int) -> int | None:
    """Approximate bytes of this number of messages and their dependent rows; None if the total is unknown."""
    sizes = {table.name: table for table in tables()}
    whole = sizes["messages"].rows
    if whole is None or whole < messages:
        return None
    return round(sum(table.size for table in sizes.values()) * messages / whole)
