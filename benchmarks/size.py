"""How many bytes in the database does a message take, by table, with indexes and TOAST?

    script/benchmark size                   20,000 messages
    script/benchmark size --messages 2000   in a minute

Questions of 140 characters and answers of 690 go through the memory service as a server's do: recall, ledger, question,
answer, backlog. They belong to a hundred scopes. In half of these the client resends its latest turns, in the others it
sends its question alone and gets the scope's latest turns added. Vectors are random, which takes the same room.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks import phases, progress
from benchmarks.home import home
from benchmarks.texts import Writer
from conversations.embedders.base import Vectors
from conversations.embedders.local import LocalEmbedder
from conversations.embedders.local_models import ENGLISH

QUESTION, ANSWER = 140, 690  # characters
EACH = 200  # messages of a scope
PATIENCE = 600  # seconds for storing a question

SIZES = """
SELECT relname, reltuples::bigint, pg_relation_size(c.oid), pg_indexes_size(c.oid),
       pg_table_size(c.oid) - pg_relation_size(c.oid)
FROM pg_class c WHERE relkind = 'r' AND relname LIKE 'conversations\\_%%' ORDER BY relname
"""
INDEXES = """
SELECT c.relname, pg_relation_size(c.oid) FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid
JOIN pg_class t ON t.oid = i.indrelid WHERE t.relname LIKE 'conversations\\_%%' ORDER BY 2 DESC
"""


class RandomEmbedder(LocalEmbedder):
    """Cuts texts as the local model does, and makes a random vector of each."""

    def embed(self, texts: Sequence[str], *, later: bool = False) -> Vectors:
        seeds = [int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) for text in texts]
        made = np.array([np.random.default_rng(seed).normal(size=self.dimensions) for seed in seeds], np.float32)
        unit: Vectors = made / np.linalg.norm(made, axis=1, keepdims=True)
        return unit


class Client(phases.Client):
    """An app of one scope; `resends` its latest turns or none."""

    def __init__(self, number: int) -> None:
        super().__init__(0)
        self.scope = ("benchmark", f"scope {number}")
        self._writer = Writer(seed=number)
        self._resends = number % 2 == 0

    def body(self) -> bytes:
        turns = self._turns[-phases.WINDOW + 1 :] if self._resends else []
        self._turns = [*turns, {"role": "user", "content": self._text(QUESTION)}]
        return json.dumps({"model": phases.MODEL, "messages": self._turns}).encode()

    def answer_text(self) -> str:
        return self._text(ANSWER)

    def _text(self, length: int) -> str:
        return self._writer.sentence(length // 3)[:length]


async def fill(messages: int) -> None:
    """Store this many messages. What a busy machine stores late waits in the spool, and is stored at the end."""
    from proxy.spool.replaying import store_spool

    run = phases.Run(recall=True)
    run.use(RandomEmbedder(ENGLISH))
    clients = [Client(number) for number in range(max(1, messages // EACH))]
    meter = phases.Meter()
    with patch("proxy.memory.exchange.STORE_SECONDS", PATIENCE):
        for number in range(messages // 2):
            await run.exchange(clients[number % len(clients)], meter)
            progress.tell(f"{2 * number + 2} of {messages} messages")
    progress.done()
    await asyncio.to_thread(store_spool)


def sizes(messages: int) -> dict[str, dict[str, float]]:
    """For each table and in all, bytes a message: `rows`, `indexes` and `beside` (TOAST and maps); and rows a message.

    After VACUUM, which a busy database does by itself: GIN's pending entries are merged.
    """
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("VACUUM (ANALYZE)")
        cursor.execute(SIZES)
        found = {
            name.removeprefix("conversations_"): {
                "a_message": rows / messages,
                "rows": table / messages,
                "indexes": indexes / messages,
                "beside": beside / messages,
            }
            for name, rows, table, indexes, beside in cursor.fetchall()
        }
    keys = ("a_message", "rows", "indexes", "beside")
    return found | {"in all": {key: sum(table[key] for table in found.values()) for key in keys}}


def index_sizes(messages: int) -> dict[str, float]:
    """Bytes a message, largest first."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(INDEXES)
        return {name: size / messages for name, size in cursor.fetchall()}


def show(found: dict[str, dict[str, float]]) -> None:
    print("bytes a message       in all   rows  indexes  beside   rows a message")
    for name, sizes in found.items():
        bytes_ = [sizes["rows"], sizes["indexes"], sizes["beside"]]
        if sum(bytes_) >= 1:
            told = "  ".join(f"{size:6.0f}" for size in bytes_)
            print(f"{name:<20}{sum(bytes_):8.0f} {told}   {sizes['a_message']:12.2f}")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="script/benchmark size", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=20_000, metavar="N", help="to store (20000)")
    parser.add_argument("--indexes", action="store_true", help="list the size of each index")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file, too")
    options = parser.parse_args(arguments)
    os.environ["RESERVOIR_RECALL_DEADLINE_MS"] = "60000"  # a late recall would leave a ledger empty
    with home():
        from django.conf import settings

        from conversations.embedding import active_model
        from proxy.providers import tokens
        from reservoir_site import database, server

        try:
            server.prepare_database()
            tokens.prepare(settings.RESERVOIR_HOME / "tiktoken")
            active_model()
            asyncio.run(fill(options.messages))
            found: dict[str, Any] = sizes(options.messages)
            show(found)
            if options.indexes:
                for name, size in index_sizes(options.messages).items():
                    print(f"{size:8.0f}  {name}")
        finally:
            if embedded := database.embedded():
                embedded.release()
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
