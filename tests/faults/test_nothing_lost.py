"""Answered means stored: workers, servers and PostgreSQL are killed under load, and storage is compared."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake_provider.provider import FakeProvider
from tests.faults.breaking import Chaos
from tests.faults.clients import Ledger, load
from tests.faults.stored import differences, settled
from tests.faults.watching import report
from tests.server import PATIENT, Server

pytestmark = pytest.mark.alone

CLIENTS = 16
EXCHANGES = int(os.environ.get("FAULTS_EXCHANGES", "2000"))
KILLS = int(os.environ.get("FAULTS_KILLS", "20"))
RATE = 16.0  # exchanges a second: about half of what the smallest machine can do


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server of two workers."""
    with FakeProvider(word_delay=0.002) as provider:
        # This test is not about vectors, and making them would use most of the machine.
        embedder = {"RESERVOIR_EMBEDDER": f"{provider.base_url}#small", "RESERVOIR_EMBEDDER_DIMENSIONS": "1536"}
        settings = PATIENT | {"RESERVOIR_WORKERS": "2"} | embedder
        with Server(tmp_path / "reservoir", provider.base_url, settings=settings) as server:
            yield server


async def test_every_answered_exchange_survives_kills_once_and_unchanged(server: Server) -> None:
    """First at a pace at which each kill hits a database in use, then at full speed, which is one long outage."""
    seed = int(os.environ.get("FAULTS_SEED") or random.randrange(2**32))
    ledger = Ledger()
    killed = await storm(server, ledger, seed=seed, exchanges=EXCHANGES // 5, rate=RATE)
    killed += await storm(server, ledger, seed=seed, exchanges=EXCHANGES * 4 // 5, first=CLIENTS)
    if not server.is_running:
        server.start()
    server.wait_until_ready()
    await settled(server.home)
    slowest = max(one.seconds for one in ledger.answered)
    memory = Counter(one.memory for one in ledger.answered)
    report(
        f"seed {seed}: {len(ledger.asked)} asked, {len(ledger.answered)} answered (memory {dict(memory)}), "
        f"slowest {slowest:.2f} s, killed {dict(killed)}"
    )
    found = differences(server.home, ledger)
    assert not found, f"FAULTS_SEED={seed} shows it again: {len(found)} differences, such as {found[:5]}"
    assert memory["degraded"], "no outage was noticed: the test breaks nothing"
    assert memory["on"] > EXCHANGES // 20, "it was all one outage"


async def storm(
    server: Server, ledger: Ledger, *, seed: int, exchanges: int, first: int = 0, rate: float | None = None
) -> Counter[str]:
    """Run this many exchanges and half of the kills, with a `rate` only while memory is on. Returns what was killed."""
    chaos = Chaos(server, ledger, seed=seed, every=exchanges * 2 // KILLS, recovered=rate is not None)
    before = len(ledger.answered)

    def done(*_: object) -> bool:
        return len(ledger.answered) - before >= exchanges and broken()

    def broken() -> bool:
        return chaos.kills >= KILLS // 2

    await asyncio.gather(
        load(server.base_url, seed=seed, clients=CLIENTS, until=done, ledger=ledger, rate=rate, first=first),
        chaos.run(broken),
    )
    return chaos.killed
