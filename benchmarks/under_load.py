"""Does memory stay on when more clients ask than the machine can serve? Does recall wait for backlog or replay?

    python -m benchmarks.under_load                          16 and 64 clients, and recall beside a full backlog
    python -m benchmarks.under_load --clients 16 --seconds 60

Clients in a closed loop: each asks again as soon as it has an answer, in a conversation of its own. The provider is
instant. The server and its PostgreSQL share a core, so that they are the limit. What counts is the share of answers
without memory (`degraded`) and of exchanges that went to the spool though the database was there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.texts import Writer, history
from tests.fake_provider.provider import FakeProvider
from tests.faults.stored import rows
from tests.server import ROOT, Server, clean_environment

WINDOW = 6  # turns that a client resends, with its question
CORE = 0
ASKED, WAITING = 1_000, 3_000  # messages of the scope that is asked, and of one without vectors
QUESTIONS = 60


@dataclass
class Load:
    """What the clients of one run saw."""

    clients: int
    seconds: float
    times: list[float] = field(default_factory=list)  # of the answers, in seconds
    statuses: Counter[int] = field(default_factory=Counter)
    memory: Counter[str] = field(default_factory=Counter)  # by X-Reservoir-Memory

    @property
    def requests_a_second(self) -> float:
        return len(self.times) / self.seconds

    @property
    def p50(self) -> float:
        """In seconds."""
        return statistics.median(self.times) if self.times else 0.0

    @property
    def degraded(self) -> float:
        """The share of answers whose memory was missing."""
        return self.memory["degraded"] / max(self.memory.total(), 1)


async def measure(server_url: str, *, clients: int, seconds: float) -> Load:
    """Have this number of clients ask for this time. Their scopes are new."""
    load = Load(clients, seconds)
    deadline = time.monotonic() + seconds
    timeout = aiohttp.ClientTimeout(total=300)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        run = uuid.uuid4().hex[:8]
        urls = [f"{server_url}/v1/partition/load-{run}/instance/{number}" for number in range(clients)]
        await asyncio.gather(*(_client(session, f"{url}/chat/completions", load, deadline) for url in urls))
    return load


async def _client(session: aiohttp.ClientSession, url: str, load: Load, deadline: float) -> None:
    turns: list[dict[str, str]] = []
    while time.monotonic() < deadline:
        question = f"What did we say about harbour {len(load.times)} and its {uuid.uuid4().hex[:6]} ships?"
        turns = [*turns[-WINDOW + 1 :], {"role": "user", "content": question}]
        begun = time.monotonic()
        async with session.post(url, json={"model": "gpt-4o", "messages": turns}) as answer:
            body: Any = await answer.json()
            load.statuses[answer.status] += 1
            if answer.status == 503:
                await asyncio.sleep(int(answer.headers["retry-after"]))
                continue
            load.times.append(time.monotonic() - begun)
            load.memory[answer.headers["x-reservoir-memory"]] += 1
            turns.append({"role": "assistant", "content": body["choices"][0]["message"]["content"]})


async def recall_times(server_url: str, questions: int) -> list[float]:
    """Milliseconds that recall takes for fresh questions of one client, by Server-Timing."""
    url = f"{server_url}/v1/partition/load/instance/asked/chat/completions"
    writer, times = Writer(seed=5), []
    async with aiohttp.ClientSession() as session:
        for _ in range(questions):
            body = {"model": "gpt-4o", "messages": [{"role": "user", "content": writer.question()}]}
            async with session.post(url, json=body, headers={"X-Reservoir-Store": "off"}) as answer:
                found = re.search(r"recall;dur=([\d.]+)", answer.headers["server-timing"])
                assert found
                times.append(float(found[1]))
    return times


def beside_backlog(server: Server) -> str:
    """Recall while messages without a vector wait, against recall while none do."""
    _import(server, history("load", "asked", ASKED, seed=1))
    alone = asyncio.run(recall_times(server.url, QUESTIONS))
    bare = ({**json.loads(line), "embeddings": []} for line in history("load", "waiting", WAITING, seed=2))
    _import(server, map(json.dumps, bare))
    beside = asyncio.run(recall_times(server.url, QUESTIONS))
    ((left,),) = rows(server.home, "SELECT count(*) FROM conversations_message WHERE embed_due IS NOT NULL")
    before, after = statistics.median(alone), statistics.median(beside)
    return (
        f"recall p50 {before:.1f} ms alone, {after:.1f} ms beside a full backlog: {after / before:.2f} times "
        f"({WAITING - left} of {WAITING} messages got their vectors beside {QUESTIONS} questions)"
    )


def beside_replay(server: Server) -> str:
    """Recall while the spool is stored, against recall while nothing is; after beside_backlog()."""
    alone = asyncio.run(recall_times(server.url, QUESTIONS))
    command = [
        sys.executable,
        "-m",
        "benchmarks.store",
        "--spool",
        str(server.home / "spool"),
        "--exchanges",
        str(WAITING),
    ]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stored = "SELECT count(*) FROM conversations_exchange e JOIN conversations_instance i ON i.id = e.instance_id "
    stored += "WHERE starts_with(i.name, 'replayed')"
    ((begun,),) = rows(server.home, stored)
    beside = asyncio.run(recall_times(server.url, QUESTIONS))
    ((ended,),) = rows(server.home, stored)
    before, after = statistics.median(alone), statistics.median(beside)
    return (
        f"recall p50 {before:.1f} ms alone, {after:.1f} ms beside a replay: {after / before:.2f} times "
        f"({begun} of {WAITING} exchanges were stored before, {ended} after {QUESTIONS} questions)"
    )


def _import(server: Server, lines: Iterable[str]) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as archive:
        archive.writelines(line.rstrip("\n") + "\n" for line in lines)
        archive.flush()
        command = [sys.executable, "manage.py", "import", archive.name, "--json"]
        environment = clean_environment() | server.settings
        subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)


def report(load: Load, spooled: int) -> str:
    """One line for people."""
    others = {status: count for status, count in load.statuses.items() if status != 200}
    return (
        f"{load.clients:3} clients: {load.requests_a_second:6.1f} requests/s, p50 {1000 * load.p50:6.0f} ms, "
        f"degraded {load.degraded:6.1%}, spooled {spooled}, other statuses {others or 'none'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--seconds", type=float, default=30)
    options = parser.parse_args()
    os.sched_setaffinity(0, {CORE})  # inherited by the server and its PostgreSQL
    with (
        tempfile.TemporaryDirectory() as home,
        FakeProvider() as provider,
        Server(Path(home) / "home", provider.base_url) as server,
    ):
        os.sched_setaffinity(0, set(range(os.cpu_count() or 1)) - {CORE} or {CORE})
        asyncio.run(measure(server.url, clients=1, seconds=3))  # warms up
        for clients in options.clients:
            spooled = server.log.count("goes to the spool")
            load = asyncio.run(measure(server.url, clients=clients, seconds=options.seconds))
            print(report(load, server.log.count("goes to the spool") - spooled), flush=True)
        while rows(server.home, "SELECT FROM conversations_message WHERE embed_due IS NOT NULL LIMIT 1"):
            time.sleep(0.5)
        print(beside_backlog(server), flush=True)
        while rows(server.home, "SELECT FROM conversations_message WHERE embed_due IS NOT NULL LIMIT 1"):
            time.sleep(0.5)
        print(beside_replay(server))


if __name__ == "__main__":
    main()
