"""The primary is lost and its replica promoted, under load; and a database that takes no writes.

FAULTS_ROUNDS=5 script/test tests/faults/test_failover.py -s
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from reservoir_site.postgres_folder import embedded_location
from tests.fake_provider.provider import FakeProvider
from tests.faults.app import App
from tests.faults.clients import Ledger, load
from tests.faults.conftest import StartServer
from tests.faults.stored import differences, recovered, settled
from tests.faults.watching import report
from tests.postgres_pair import Pair
from tests.server import PATIENT, Server

CLIENTS = 8
RATE = 10.0  # exchanges a second
ROUNDS = int(os.environ.get("FAULTS_ROUNDS", "1"))


@pytest.mark.alone
async def test_a_promoted_replica_is_found_and_has_every_answered_exchange_once(tmp_path: Path) -> None:
    seed = int(os.environ.get("FAULTS_SEED") or random.randrange(2**32))
    ledger, found_after, memory_after = Ledger(), list[float](), list[float]()
    with ExitStack() as running:
        provider = running.enter_context(FakeProvider())
        pair = running.enter_context(Pair(tmp_path / "pair"))
        settings = PATIENT | {
            "RESERVOIR_RECALL_DEADLINE_MS": "1000",
            "RESERVOIR_EMBEDDER": f"{provider.base_url}#small",
            "RESERVOIR_EMBEDDER_DIMENSIONS": "1536",
        }
        server = Server(tmp_path / "reservoir", provider.base_url, database_url=pair.url, settings=settings)
        running.enter_context(server)
        breaking = asyncio.ensure_future(fail_over(pair, server, ledger, found_after, memory_after))
        clients = load(
            server.base_url, seed=seed, clients=CLIENTS, until=lambda _: breaking.done(), ledger=ledger, rate=RATE
        )
        await asyncio.gather(clients, breaking)
        server.wait_until_ready()
        await settled(server.home)
        memory = Counter(one.memory for one in ledger.answered)
        report(
            f"seed {seed}: {len(ledger.answered)} answered (memory {dict(memory)}); seconds from each promotion until "
            f"the server used the new primary: {seconds(found_after)}; until memory was on: {seconds(memory_after)}"
        )
        found = differences(pair.primary.conninfo(), ledger)
        assert not found, f"FAULTS_SEED={seed} shows it again: {len(found)} differences, such as {found[:5]}"
        assert len(ledger.answered) == len(ledger.asked), "a client got no answer"
        assert memory["degraded"], "no outage was noticed: the test breaks nothing"


async def fail_over(
    pair: Pair, server: Server, ledger: Ledger, found_after: list[float], memory_after: list[float]
) -> None:
    """Kill the primary and promote its replica, ROUNDS times. Adds how long it took, in seconds from the promotion."""
    for found in range(1, ROUNDS + 1):
        await answered_with_memory(ledger, 3 * CLIENTS)
        await asyncio.to_thread(pair.primary.kill)
        await asyncio.sleep(1.5)  # what notices the loss takes its time
        await asyncio.to_thread(pair.fail_over)
        promoted = time.monotonic()
        with_memory = asyncio.ensure_future(answered_with_memory(ledger, 1))
        while server.log.count("the database answers again") < found:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        found_after.append(time.monotonic() - promoted)
        await with_memory
        memory_after.append(time.monotonic() - promoted)
        await asyncio.to_thread(pair.rejoin)
    await answered_with_memory(ledger, 3 * CLIENTS)


def seconds(values: list[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)


async def answered_with_memory(ledger: Ledger, count: int) -> None:
    """Wait for `count` more exchanges with memory."""
    begun = len(ledger.asked)
    while sum(one.answer is not None and one.memory == "on" for one in ledger.asked[begun:]) < count:  # noqa: ASYNC110
        await asyncio.sleep(0.02)


def test_a_database_that_takes_no_writes_counts_as_lost(start_server: StartServer) -> None:
    app = App(start_server({"RESERVOIR_RECALL_DEADLINE_MS": "5000"}))
    home = app.server.home

    def read_only(value: str) -> None:
        where = embedded_location(home)
        with psycopg.connect(host=where.host, port=where.port, user="postgres", autocommit=True) as admin:
            admin.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}".encode())
            admin.execute("SELECT pg_reload_conf()")

    assert app.memory("before") == "on"
    read_only("on")
    assert [app.memory(text) for text in ("one", "two")] == ["degraded", "degraded"]
    assert "the database does not answer" in app.server.log
    read_only("off")
    recovered(app.server)
    assert app.memory("after") == "on"
    assert app.said() == ["warm", "before", "one", "two", "after"]
