"""Compare what is stored with what clients saw."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, LiteralString

import httpx
import psycopg

from reservoir_site.postgres_folder import embedded_location
from tests.faults.clients import Ledger
from tests.faults.watching import eventually
from tests.server import Server


def rows(database: Path | str, query: LiteralString, *parameters: object) -> list[tuple[Any, ...]]:
    """Run a query in the PostgreSQL of a home, or in the one that a connection string names."""
    with psycopg.connect(address(database) if isinstance(database, Path) else database) as connection:
        return connection.execute(query, parameters).fetchall()


def address(home: Path) -> str:
    """The connection string of a home's PostgreSQL."""
    where = embedded_location(home)
    return f"host={where.host} port={where.port} user={where.user} dbname={where.dbname}"


def spooled(home: Path) -> bytes:
    """The bytes of all spool segments. Those that the server removes meanwhile are passed over."""
    found = []
    for path in (home / "spool").glob("*"):  # there is no folder before the first record
        with suppress(FileNotFoundError):
            found.append(path.read_bytes())
    return b"".join(found)


def waiting(home: Path) -> int:
    """The number of spool segments that are not empty."""
    return sum(1 for path in (home / "spool").glob("*.spool") if path.stat().st_size)


def recovered(server: Server) -> None:
    """Wait until the spool is empty and the server uses its database again."""
    eventually(lambda: waiting(server.home) == 0)
    eventually(lambda: httpx.get(f"{server.url}/ready", trust_env=False, timeout=300).status_code == 200)


async def settled(home: Path, seconds: float = 600) -> None:
    """Wait until the spool has been replayed."""
    deadline = time.monotonic() + seconds
    while waiting(home):
        assert time.monotonic() < deadline, f"{waiting(home)} segments of the spool are still there"
        await asyncio.sleep(0.1)


def differences(home: Path | str, ledger: Ledger) -> list[str]:
    """The differences between storage and the clients' records, one sentence each.

    Each answered exchange must be stored once, byte for byte, and no turn twice.
    """
    exchanges = Counter(str(trace_id) for (trace_id,) in rows(home, "SELECT trace_id FROM conversations_exchange"))
    stored = {
        str(trace_id): (ended, question, answers)
        for trace_id, ended, question, answers in rows(
            home,
            """SELECT e.trace_id, e.ended, q.payload,
                      (SELECT array_agg(m.content ORDER BY m.id) FROM conversations_message m
                       WHERE m.exchange_id = e.id AND m.role = 'assistant' AND m.created = e.finished)
               FROM conversations_exchange e LEFT JOIN conversations_message q ON q.id = e.question_id""",
        )
    }
    turns = Counter(
        ((partition, instance), role, content)
        for partition, instance, role, content in rows(
            home,
            """SELECT p.name, i.name, m.role, m.content FROM conversations_message m
               JOIN conversations_instance i ON i.id = m.instance_id
               JOIN conversations_partition p ON p.id = i.partition_id""",
        )
    )
    found = []
    for one in ledger.answered:
        name = f"{one.scope[1]} {one.question.split()[0]} ({one.trace_id}, memory {one.memory})"
        if exchanges[one.trace_id] != 1:
            found.append(f"{name}: {exchanges[one.trace_id]} exchanges are stored")
            continue
        ended, question, answers = stored[one.trace_id]
        if ended != "answered":
            found.append(f"{name}: ended as {ended}")
        if question != one.message:
            found.append(f"{name}: the question is stored as {question!r}")
        if answers != [one.answer]:
            found.append(f"{name}: the answer is stored as {answers!r}")
    for one in ledger.asked:
        for role, text in (("user", one.question), ("assistant", f"You said: {one.question}")):
            times = turns.pop((one.scope, role, text), 0)
            if times > 1 or (times < 1 and one.answer is not None):
                found.append(f"{one.scope[1]} {one.question.split()[0]}: the {role}'s turn is stored {times} times")
    # The remaining turns must be partial answers: beginnings of the answer to a question that a client asked.
    begun = {(one.scope, f"You said: {one.question}") for one in ledger.asked if one.answer is None}
    for (scope, role, text), times in turns.items():
        if role != "assistant" or not any(s == scope and whole.startswith(text) for s, whole in begun):
            found.append(f"{scope[1]}: no client knows {text!r} as {role} ({times} times)")
    return found
