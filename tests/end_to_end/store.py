"""Reads the database of a running server, past its API."""

from __future__ import annotations

import time
from typing import Any

import psycopg
from psycopg.rows import dict_row

from reservoir_site.postgres_folder import embedded_location
from tests.server import Server


def rows(server: Server, query: str, *parameters: object) -> list[dict[str, Any]]:
    """Query the embedded database of a server."""
    where = embedded_location(server.home)
    with (
        psycopg.connect(
            host=where.host, port=where.port, user=where.user, dbname=where.dbname, row_factory=dict_row
        ) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(query, parameters)
        return cursor.fetchall()


def execute(server: Server, statement: str, *parameters: object) -> None:
    """Change something in the embedded database of a server."""
    where = embedded_location(server.home)
    with psycopg.connect(host=where.host, port=where.port, user=where.user, dbname=where.dbname) as connection:
        connection.execute(statement, parameters)


def messages(server: Server, scope: tuple[str, str]) -> list[dict[str, Any]]:
    """The messages of a scope, oldest first."""
    return rows(
        server,
        """SELECT m.* FROM conversations_message m JOIN conversations_instance i ON i.id = m.instance_id
           JOIN conversations_partition p ON p.id = i.partition_id WHERE p.name = %s AND i.name = %s ORDER BY m.id""",
        *scope,
    )


def exchanges(server: Server, scope: tuple[str, str]) -> list[dict[str, Any]]:
    """The exchanges of a scope, oldest first."""
    return rows(
        server,
        """SELECT e.* FROM conversations_exchange e JOIN conversations_instance i ON i.id = e.instance_id
           JOIN conversations_partition p ON p.id = i.partition_id WHERE p.name = %s AND i.name = %s ORDER BY e.id""",
        *scope,
    )


def wait_for_end(server: Server, scope: tuple[str, str], ended: str, seconds: float = 300) -> dict[str, Any]:
    """Wait until the scope's latest exchange has this `ended`, and return it."""
    deadline = time.monotonic() + seconds
    while True:
        found = exchanges(server, scope)
        if found and found[-1]["ended"] == ended:
            return found[-1]
        assert time.monotonic() < deadline, f"wanted {ended}: {[e['ended'] for e in found]}"
        time.sleep(0.02)
