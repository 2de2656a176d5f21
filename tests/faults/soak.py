"""Soak test: in a calm phase nothing may grow, and in a storm of kills nothing may be lost.

script/soak                             five minutes
script/soak --minutes 60 --rate 20
script/soak --seed 1241946787           repeats a storm
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.fake_provider.provider import FakeProvider
from tests.faults.breaking import Chaos
from tests.faults.clients import Ledger, load
from tests.faults.stored import differences, settled, waiting
from tests.faults.watching import open_files, resident, workers
from tests.server import Server


def say(text: str) -> None:
    print(text, flush=True)


class Gauge:
    """Samples the workers' memory and file descriptors every five seconds."""

    def __init__(self, server: Server, ledger: Ledger, provider: FakeProvider) -> None:
        self._server, self._ledger, self._provider = server, ledger, provider
        self.memory: list[float] = []  # MB
        self.descriptors: list[int] = []

    async def run(self, until: float, chaos: Chaos | None = None) -> None:
        begun = time.monotonic()
        while time.monotonic() < until:
            await asyncio.sleep(5)
            self._provider.requests.clear()
            pids = workers(self._server) if self._server.is_running else []
            memory, descriptors = sum(map(resident, pids)) / 2**20, sum(map(open_files, pids))
            self.memory.append(memory)
            self.descriptors.append(descriptors)
            answered = self._ledger.answered
            recent = [one.seconds * 1000 for one in answered[-200:]] or [0.0]
            say(
                f"{time.monotonic() - begun:5.0f} s  {len(answered):6} answered  {statistics.median(recent):5.0f} ms  "
                f"{memory:5.0f} MB  {descriptors:3} descriptors  {waiting(self._server.home)} segments waiting"
                + (f"  {chaos.kills} kills" if chaos else "")
            )


def growth(values: list[float]) -> float:
    """Growth of the median from the second to the last third, as a share. The first third is warm-up."""
    third = len(values) // 3
    before, after = statistics.median(values[third : 2 * third]), statistics.median(values[2 * third :])
    return after / before - 1


async def soak(minutes: float, seed: int, clients: int, rate: float) -> bool:
    with tempfile.TemporaryDirectory(prefix="reservoir-soak-") as folder, FakeProvider() as provider:
        settings = {"RESERVOIR_WORKERS": "2"}
        with Server(Path(folder) / "reservoir", provider.base_url, settings=settings) as server:
            ledger = Ledger()
            say(f"seed {seed}, {clients} clients\n\ncalm: {rate:.0f} exchanges per second")
            gauge, until = Gauge(server, ledger, provider), time.monotonic() + 30 * minutes
            calm = load(
                server.base_url,
                seed=seed,
                clients=clients,
                until=lambda _: time.monotonic() > until,
                ledger=ledger,
                rate=rate,
            )
            await asyncio.gather(calm, gauge.run(until))
            memory, descriptors = growth(gauge.memory), growth([float(n) for n in gauge.descriptors])
            say(f"memory {memory:+.1%}, descriptors {descriptors:+.1%} over the last third\n\nstorm: kill -9")
            flat = memory < 0.1 and descriptors < 0.1

            provider.word_delay = 0.002
            storm, end = Ledger(), time.monotonic() + 30 * minutes
            chaos = Chaos(server, storm, seed=seed, every=100)
            gauge = Gauge(server, storm, provider)
            hurried = load(
                server.base_url,
                seed=seed + 1,
                clients=clients,
                until=lambda _: time.monotonic() > end,
                ledger=storm,
                first=clients,
            )
            await asyncio.gather(hurried, chaos.run(lambda: time.monotonic() > end), gauge.run(end, chaos))
            if not server.is_running:
                server.start()
            server.wait_until_ready()
            say("waiting until the spool is stored ...")
            await settled(server.home, 60 * minutes + 180)
            everything = Ledger([*ledger.asked, *storm.asked])
            found = differences(server.home, everything)
            say(
                f"{len(everything.asked)} asked, {len(everything.answered)} answered, killed {dict(chaos.killed)}: "
                f"{len(found)} differences between what clients saw and what is stored"
            )
            for difference in found[:20]:
                say(f"  {difference}")
            if not flat:
                say("memory or descriptors grew")
            return flat and not found


def main() -> int:
    parser = argparse.ArgumentParser(prog="script/soak", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=random.randrange(2**31))
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--rate", type=float, default=10, help="exchanges per second in the calm phase")
    options = parser.parse_args()
    return 0 if asyncio.run(soak(options.minutes, options.seed, options.clients, options.rate)) else 1


if __name__ == "__main__":
    sys.exit(main())
