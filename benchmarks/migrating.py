"""How long do all migrations take on a large database, and how long does a client wait meanwhile?

    script/benchmark migrations                       a million messages, stored by the first version's tables
    script/benchmark migrations --messages 10000      in a minute
    script/benchmark migrations --since 0012_dialects only the migrations after that one

The database is filled by SQL in the tables of the first version: a thousand scopes, an exchange for every two messages,
a ledger for each. While the migrations run, a client stores in one scope and reads another one's latest messages, in
the tables as they are at that moment, as a server of an earlier version does. Its longest wait shows how long a
migration holds a lock. Vectors are left out: no migration reads or writes them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks import progress
from benchmarks.home import home
from benchmarks.texts import Writer

APP = "conversations"
FIRST_STATE = "0001_initial"
SCOPES, TEXTS, CANDIDATES = 1_000, 5_000, 10
AT_ONCE = 50_000  # messages filled in one transaction
LATEST = (
    "SELECT id, role, content FROM conversations_message WHERE instance_id = %s ORDER BY created DESC, id DESC LIMIT 20"
)
COLUMNS = """
SELECT column_name, data_type FROM information_schema.columns
WHERE table_schema = current_schema() AND table_name = %s AND is_nullable = 'NO' AND column_default IS NULL
  AND is_identity = 'NO'
"""
EMPTY = {
    "boolean": "false",
    "integer": "0",
    "smallint": "0",
    "bigint": "0",
    "jsonb": "'[]'",
    "bytea": "''",
    "ARRAY": "'{}'",
    "timestamp with time zone": "now()",
    "uuid": "gen_random_uuid()",
}


def insert(table: str, source: str, values: dict[str, str]) -> str:
    """SQL that adds a row for each of `source`: these values, and empty ones for other columns that must have one."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(COLUMNS, [table])
        rest = {name: EMPTY.get(kind, "''") for name, kind in cursor.fetchall() if name not in values}
    columns = rest | values
    return f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(columns.values())} FROM {source}"


def fill(messages: int) -> None:
    """Store this many messages, half of them questions of 140 characters, half answers of 690."""
    from django.db import connection, transaction

    writer = Writer(seed=1)
    texts = [writer.sentence(words)[:length] for words, length in ((60, 140), (250, 690)) for _ in range(TEXTS)]
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE said (number int PRIMARY KEY, content text, lexemes tsvector)")
        cursor.execute(
            "INSERT INTO said SELECT number - 1, content, to_tsvector('english', content) "
            "FROM unnest(%s::text[]) WITH ORDINALITY given(content, number)",
            [texts],
        )
        cursor.execute("INSERT INTO conversations_partition (name, created) VALUES ('benchmark', now())")
        scopes = f"generate_series(1, {SCOPES}) n, conversations_partition p"
        instance = {"partition_id": "p.id", "name": "'scope ' || n", "message_count": f"{messages // SCOPES}"}
        cursor.execute(insert("conversations_instance", scopes, instance))
        for first in range(0, messages, AT_ONCE):
            with transaction.atomic():
                _fill(cursor, first // 2 + 1, min(first + AT_ONCE, messages) // 2)
            progress.tell(f"{first + AT_ONCE} of {messages} messages")
        cursor.execute("VACUUM (ANALYZE)")
    progress.done()


def _fill(cursor: Any, first: int, last: int) -> None:
    """The exchanges from the first to the last, each with a question, an answer and a ledger."""
    scope = f"(SELECT min(id) FROM conversations_instance) + n % {SCOPES}"
    numbers = f"generate_series({first}::bigint, {last}) n"
    moment = "now() - interval '300 days' + n * interval '10 seconds'"
    exchange = {"instance_id": scope, "created": moment, "model": "'gpt-4o'", "provider": "'openai'"}
    exchange |= {"ended": "'answered'", "memory": "'on'", "parameters": '\'{"model": "gpt-4o"}\''}
    exchange |= {"request_ids": f"ARRAY(SELECT 2 * n - 1 - 2 * {SCOPES} * at FROM generate_series(0, 9) at)::bigint[]"}
    cursor.execute(insert("conversations_exchange", f"{numbers} ORDER BY n", exchange))
    for role, offset, add in (("user", 0, 0), ("assistant", TEXTS, 1)):
        message = {
            "instance_id": scope,
            "exchange_id": "n",
            "created": moment,
            "role": f"'{role}'",
            "content": "said.content",
            "payload": f"json_build_object('role', '{role}', 'content', said.content)::text",
            "digest": f"decode(md5('{role}' || n), 'hex')",
            "tokens": "length(said.content) / 4",
            "lexemes": "said.lexemes",
        }
        texts = f"{numbers} JOIN said ON said.number = {offset} + (n * 7919 + {add}) % {TEXTS} ORDER BY n"
        cursor.execute(insert("conversations_message", texts, message))
    entry = "'id', 2 * n - at, 'arm', 'recall', 'score', 1.5, 'tokens', 40, 'kept', true, 'piece', '[0, 140]'::jsonb"
    ledger = {
        "exchange_id": "n",
        "key": "decode(md5(n::text), 'hex')",
        "candidates": f"(SELECT jsonb_agg(jsonb_build_object({entry})) FROM generate_series(1, {CANDIDATES}) at)",
        "message_ids": f"ARRAY(SELECT 2 * n - at FROM generate_series(1, {CANDIDATES}) at)::bigint[]",
    }
    cursor.execute(insert("conversations_ledger", f"{numbers} ORDER BY n", ledger))


class Client(threading.Thread):
    """Stores and reads until it is stopped. `waits` are the seconds that each time took."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.waits: list[float] = []
        self.failures: list[str] = []
        self._stopping = threading.Event()

    def stop(self) -> None:
        self._stopping.set()
        self.join()

    def run(self) -> None:
        from django.db import DatabaseError, connection

        while not self._stopping.wait(0.01):
            started = time.perf_counter()
            try:
                self._once()
            except DatabaseError as error:
                self.failures.append(str(error).splitlines()[0])
            self.waits.append(time.perf_counter() - started)
        connection.close()

    def _once(self) -> None:
        from django.db import connection, transaction

        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT id FROM conversations_instance ORDER BY id LIMIT 1 FOR NO KEY UPDATE")
            ((instance,),) = cursor.fetchall()
            cursor.execute(LATEST, [instance + 1])
            cursor.fetchall()
            exchange = {"instance_id": f"{instance}", "created": "now()", "ended": "'open'"}
            cursor.execute(insert("conversations_exchange", "(SELECT) one", exchange) + " RETURNING id")
            ((number,),) = cursor.fetchall()
            message = {"instance_id": f"{instance}", "exchange_id": f"{number}", "created": "now()", "role": "'user'"}
            cursor.execute(insert("conversations_message", "(SELECT) one", message | {"content": "'Hello.'"}))
            cursor.execute(insert("conversations_ledger", "(SELECT) one", {"exchange_id": f"{number}"}))
            cursor.execute("UPDATE conversations_instance SET last_active = now() WHERE id = %s", [instance])


def timed(migrate: Callable[[str], object], since: str) -> dict[str, dict[str, float]]:
    """For each migration after `since`: the seconds that it took, and the client's longest wait meanwhile."""
    from django.db import connection
    from django.db.migrations.loader import MigrationLoader

    loader = MigrationLoader(connection)
    (leaf,) = loader.graph.leaf_nodes(APP)
    names = [name for app, name in loader.graph.forwards_plan(leaf) if app == APP]
    found = {}
    for name in names[names.index(since) + 1 :]:
        client = Client()
        client.start()
        started = time.perf_counter()
        migrate(name)
        seconds = time.perf_counter() - started
        client.stop()
        longest, median = (f(client.waits or [0.0]) for f in (max, statistics.median))
        found[name] = {
            "seconds": seconds,
            "longest_wait": longest,
            "median_wait": median,
            "failed": len(client.failures),
        }
        print(f"{seconds:8.1f} {longest:8.2f} {median:8.3f} {len(client.failures):6d}   {name}", flush=True)
        for failure in sorted({*client.failures}):
            print(f"         {failure}")
    return found


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="script/benchmark migrations", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=1_000_000, metavar="N", help="to store (1000000)")
    parser.add_argument("--since", default=FIRST_STATE, metavar="MIGRATION", help="migrate to this one before filling")
    parser.add_argument("--home", type=Path, metavar="DIR", help="keep the database in this folder")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file, too")
    options = parser.parse_args(arguments)
    with home(options.home):
        from django.core.management import call_command
        from django.db import connection

        from conversations.direct import direct_connection
        from reservoir_site import database, database_check

        def migrate(name: str) -> None:
            call_command("migrate", APP, name, verbosity=0, interactive=False)

        database.reach()
        try:
            with direct_connection() as direct:
                database_check.create_vector(direct, database.facts(direct))
            migrate(options.since)
            fill(options.messages)
            print(" seconds  longest   median failed   while a client stores and reads: its waits in seconds")
            found = timed(migrate, options.since)
            print(f"{sum(each['seconds'] for each in found.values()):8.1f}   in all")
        finally:
            connection.close()
            with suppress(Exception):
                if embedded := database.embedded():
                    embedded.release()
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
