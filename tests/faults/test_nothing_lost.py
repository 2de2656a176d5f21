"""Answered means stored: kill -9 of workers, servers and PostgreSQL under load, and what is left afterwards."""

from __future__ import annotations

import asyncio
import os
import random

from tests.fake_provider import FakeProvider
from tests.faults.conftest import StartServer
from tests.faults.harness import Chaos, Ledger, differences, load, report, settled

CLIENTS = 16
EXCHANGES = int(os.environ.get("FAULTS_EXCHANGES", "2000"))
KILLS = int(os.environ.get("FAULTS_KILLS", "20"))


async def test_every_answered_exchange_survives_kills_exactly_once_byte_for_byte(
    start_server: StartServer, provider: FakeProvider
) -> None:
    seed = int(os.environ.get("FAULTS_SEED") or random.randrange(2**32))
    provider.word_delay = 0.002
    server = start_server({"RESERVOIR_WORKERS": "2"})
    ledger = Ledger()
    chaos = Chaos(server, ledger, seed=seed, every=EXCHANGES // KILLS)

    def done(*_: object) -> bool:
        return len(ledger.answered) >= EXCHANGES and chaos.kills >= KILLS

    await asyncio.gather(
        load(server.base_url, seed=seed, clients=CLIENTS, until=done, ledger=ledger),
        chaos.run(lambda: chaos.kills >= KILLS),
    )
    if not server.is_running:
        server.start()
    server.wait_until_ready()
    await settled(server.home)
    degraded = sum(one.memory == "degraded" for one in ledger.answered)
    slowest = max(one.seconds for one in ledger.answered)
    report(
        f"seed {seed}: {len(ledger.asked)} asked, {len(ledger.answered)} answered ({degraded} degraded), "
        f"slowest {slowest:.2f} s, killed {dict(chaos.killed)}"
    )
    found = differences(server.home, ledger)
    assert not found, f"FAULTS_SEED={seed} shows it again: {len(found)} differences, such as {found[:5]}"
    assert degraded, "no outage was noticed: the test breaks nothing"
