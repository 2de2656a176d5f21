"""Answered means stored: kill -9 of workers, servers and PostgreSQL under load, and what is left afterwards."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator

import pytest

from tests.fake_provider import FakeProvider
from tests.faults.harness import (
    Chaos,
    Ledger,
    command_line,
    differences,
    eventually,
    load,
    report,
    settled,
    workers,
)
from tests.server import Server

CLIENTS = 16
EXCHANGES = int(os.environ.get("FAULTS_EXCHANGES", "2000"))
KILLS = int(os.environ.get("FAULTS_KILLS", "20"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with FakeProvider(word_delay=0.002) as provider:
        # Vectors are not what is shown here, and making them takes the most of the machine.
        embedder = {"RESERVOIR_EMBEDDER": f"{provider.base_url}#small", "RESERVOIR_EMBEDDER_DIMENSIONS": "1536"}
        settings = {"RESERVOIR_WORKERS": "2"} | embedder
        with Server(tmp_path_factory.mktemp("reservoir"), provider.base_url, settings=settings) as server:
            yield server


@pytest.fixture
def server(shared: Server) -> Server:
    """A server of two workers."""
    if not shared.is_running:
        shared.start()
    return shared


async def test_every_answered_exchange_survives_kills_exactly_once_byte_for_byte(server: Server) -> None:
    seed = int(os.environ.get("FAULTS_SEED") or random.randrange(2**32))
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


def test_workers_whose_server_was_killed_give_up_its_port(server: Server) -> None:
    orphans = workers(server)
    assert len(orphans) == 2
    server.kill()
    eventually(lambda: not any(command_line(pid) for pid in orphans))
    server.start()  # on the same port
