"""What does recall cost in a chat with long answers? CPU of Python and PostgreSQL, statements and time a question.

    python -m benchmarks.recall_chat beam-dev.json              reads such files as `manage.py evaluate` does
    python -m benchmarks.recall_chat beam-dev.json --home DIR   keeps the database in DIR and reuses it the next time

Each conversation is cut to its first 200 messages, and its questions are asked one after another, several times. Texts
are cut into pieces as always, but their vectors are drawn at random: the figures are those of recall beside embedding.
After the first round, the scopes are kept in the process; RESERVOIR_CACHE_MB=0 prevents that.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.home import home

PARTITION = "benchmark"
MESSAGES = 200
ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--home", type=Path, help="keep the database here")
    arguments = parser.parse_args()
    with home(arguments.home):
        run(arguments.file)


def run(file: Path) -> None:
    from django.conf import settings

    from conversations.models import Partition
    from proxy.evaluation.questions import read
    from proxy.providers import tokens
    from reservoir_site import database, server

    server.prepare_database()
    tokens.prepare(settings.RESERVOIR_HOME / "tiktoken")
    conversations = read(file.read_text())
    if not Partition.objects.filter(name=PARTITION).exists():
        build(conversations)
    print("\nround   Python CPU ms  PostgreSQL CPU ms  statements   p50 ms   p95 ms")
    embedder = RandomVectors()
    for number in range(ROUNDS + 1):
        found = measure(conversations, embedder)
        load_wanted()
        if number:  # the first one warms up
            print(
                f"{number:5d}   {found['python']:13.1f}  {found['postgres']:17.1f}  {found['statements']:10.1f}"
                f"  {found['p50']:7.1f}  {found['p95']:7.1f}"
            )
    if running := database.embedded():
        running.release()


def load_wanted() -> None:
    """Load the scopes that are asked often, as a thread of a server does."""
    from conversations.recall.cache import cache
    from conversations.recall.news import load

    while key := cache.next_wanted():
        load(key)


def build(conversations: Any) -> None:
    from conversations.backlog import embed
    from conversations.messages import add_messages
    from conversations.models import Message
    from conversations.querysets import Scope
    from proxy.evaluation.trial import _turn

    for conversation in conversations:
        messages = [(_turn(said), said.created) for said in conversation.messages[:MESSAGES]]
        ids = add_messages(scope=Scope(PARTITION, conversation.id), messages=messages, embed=False)
        for start in range(0, len(ids), 64):
            embed(RandomVectors(), list(Message.objects.filter(pk__in=ids[start : start + 64])))


class RandomVectors:
    """An embedder whose vector of a text is random, but always the same."""

    def __init__(self) -> None:
        from conversations.embedding import in_use

        self.name, self.dimensions, self.count = in_use().name, in_use().dimensions, in_use().count

    def close(self) -> None:
        pass

    def embed(self, texts: Any, *, later: bool = False) -> Any:
        drawn = np.array(
            [np.random.default_rng(zlib.crc32(text.encode())).normal(size=self.dimensions) for text in texts]
        )
        return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def measure(conversations: Any, embedder: Any) -> dict[str, float]:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    from conversations.querysets import Scope
    from proxy.dialects.chat_completions.request import decode
    from proxy.memory.recollection import RecallRequest, recollect
    from proxy.providers import tokens

    count = tokens.counter("gpt-4o").count
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        backend = cursor.fetchone()[0]
    times, statements = [], 0
    python, postgres = time.thread_time(), cpu_of(backend)
    for conversation in conversations:
        for question in conversation.questions:
            chat = decode(json.dumps({"messages": [{"role": "user", "content": question.text}]}).encode())
            request = RecallRequest(Scope(PARTITION, conversation.id), chat, count)
            started = time.perf_counter()
            recollect(lambda: embedder, request)
            times.append(1000 * (time.perf_counter() - started))
    python, postgres = time.thread_time() - python, cpu_of(backend) - postgres
    with CaptureQueriesContext(connection) as queries:
        recollect(lambda: embedder, request)
        statements = len(queries)
    times.sort()
    return {
        "python": 1000 * python / len(times),
        "postgres": 1000 * postgres / len(times),
        "statements": statements,
        "p50": statistics.median(times),
        "p95": times[int(0.95 * len(times))],
    }


def cpu_of(process: int) -> float:
    """Seconds of CPU that the process has used."""
    return int(Path(f"/proc/{process}/schedstat").read_text().split()[0]) / 1e9


if __name__ == "__main__":
    main()
