"""What do Reservoir and other gateways cost, beside the provider alone?

One core runs the gateway under test and its PostgreSQL, another one the provider, which answers at once, and the
clients, each of which asks its next question as soon as it has its answer. Rounds alternate between the gateways, and
between two measurements everything is waited for, such as the embedding of answers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from benchmarks import installing, processes, progress
from benchmarks.clients import PACE, Client, Tally, load
from benchmarks.gateways import FILLED, Alone, Bare, Gateway, LiteLLM, Portkey, Process, Reservoir
from benchmarks.installing import NotInstalled
from benchmarks.results import PROVIDER, Cell, summary, table
from tests.server import free_port

NO_RECALL = {"X-Reservoir-Recall": "off"}
OFF = {**NO_RECALL, "X-Reservoir-Store": "off"}
GATEWAYS: dict[str, type[Gateway]] = {"bare": Bare, "portkey": Portkey, "litellm": LiteLLM, "reservoir": Reservoir}
WARM_UP = 1.5  # seconds
QUIET = 0.5  # seconds in which a gateway does next to nothing
IDLE = 0.04  # of a core
DRAINED_WITHIN = 300.0  # seconds


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rounds: int
    seconds: float  # of each measurement
    levels: tuple[int, ...]  # numbers of clients
    messages: int  # of each scope with full memory


FULL = Plan(rounds=5, seconds=6, levels=(1, 16, 64), messages=1_000)
QUICK = Plan(rounds=2, seconds=2, levels=(1, 16), messages=1_000)


@dataclass
class Row:
    """One line of the table: a gateway in one configuration, or the provider alone."""

    name: str
    gateway: Gateway
    instances: str  # the beginning of their names; each client has one
    headers: dict[str, str]
    clients: list[Client] = field(default_factory=list)

    def take(self, number: int) -> list[Client]:
        """The first clients; their conversations go on."""
        while len(self.clients) < number:
            at = len(self.clients)
            url = self.gateway.url(f"{self.instances}-{at}")
            self.clients.append(Client(url, self.headers, seed=at))
        return self.clients[:number]


def rows_of(gateway: Gateway) -> Iterator[Row]:
    """The configurations of a gateway that are measured; each has conversations of its own."""
    if not isinstance(gateway, Reservoir):
        yield Row(gateway.name, gateway, "", gateway.headers)
        return
    yield Row(f"{gateway.name}: memory off, store off", gateway, "off", OFF)
    yield Row(f"{gateway.name}: store only", gateway, "store", NO_RECALL)
    yield Row(f"{gateway.name}: full memory", gateway, FILLED, {})


class Machine:
    """Two cores: the gateways', and that of the provider and the clients."""

    def __init__(self) -> None:
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            sys.exit("script/benchmark needs two cores: one for the gateway, one for the provider and the clients.")
        self.gateways, self.clients = cores[0], cores[1]

    def busy_seconds(self) -> float:
        """CPU time that the gateways' core has spent, on whatever."""
        lines = Path("/proc/stat").read_text().splitlines()
        fields = next(line for line in lines if line.startswith(f"cpu{self.gateways} ")).split()[1:]
        user, nice, system, _idle, _wait, *interrupts = map(int, fields[:8])
        return (user + nice + system + sum(interrupts)) / processes.TICKS


class Measurement:
    """Measures one row at a time, and waits until nothing is left to do."""

    def __init__(self, machine: Machine, plan: Plan) -> None:
        self._machine, self._plan = machine, plan

    async def cell(self, row: Row, kind: str, round_: int) -> Cell:
        """`kind` is a number of clients, or "paced" (one client) or "streams" (16 clients)."""
        clients = row.take({"paced": 1, "streams": 16}.get(kind) or int(kind))
        stream, pace = kind in ("paced", "streams"), PACE if kind == "paced" else 0
        before, busy = _cpu(row), self._machine.busy_seconds()
        tally = await load(clients, self._plan.seconds, stream=stream, pace=pace)
        ended = time.perf_counter()
        await drained(row)
        cpu = {part: seconds - before[part] for part, seconds in _cpu(row).items()}
        busy = self._machine.busy_seconds() - busy
        for client in clients:
            await client.close()
        return _cell(row, kind, round_, tally, cpu, time.perf_counter() - ended, busy)

    async def warm(self, row: Row) -> None:
        await load(row.take(max(self._plan.levels)), WARM_UP)
        await drained(row)


def _cell(
    row: Row, kind: str, round_: int, tally: Tally, cpu: dict[str, float], drained_for: float, busy: float
) -> Cell:
    return Cell(
        row=row.name,
        kind=kind,
        round=round_,
        answers=tally.statuses[200],
        statuses={str(status): times for status, times in tally.statuses.items()},
        degraded=tally.memory["degraded"],
        seconds=tally.seconds,
        drained_for=drained_for,
        times_ms=[1000 * seconds for seconds in tally.times],
        first_bytes_ms=[1000 * seconds for seconds in tally.first_bytes],
        cpu_seconds=cpu,
        others_seconds=max(0.0, busy - sum(cpu.values())) if row.name != PROVIDER else 0.0,
    )


def _cpu(row: Row) -> dict[str, float]:
    return {part: processes.cpu_seconds(tree) for part, tree in row.gateway.trees().items()}


async def drained(row: Row) -> None:
    """Wait until the gateway does nothing and has nothing to do."""
    deadline = time.monotonic() + DRAINED_WITHIN
    while row.name != PROVIDER and time.monotonic() < deadline:
        before = sum(_cpu(row).values())
        await asyncio.sleep(QUIET)
        if sum(_cpu(row).values()) - before <= IDLE * QUIET + 1 / processes.TICKS and not row.gateway.waits():
            return
    if row.name != PROVIDER:
        progress.done(f"{row.name} was still busy {DRAINED_WITHIN:.0f} s after the load: its figures are too low.")


async def rounds(rows: list[Row], machine: Machine, plan: Plan) -> list[Cell]:
    """All measurements. Rows alternate within each kind of load, each round beginning with another one."""
    measurement = Measurement(machine, plan)
    for row in rows:
        progress.tell(f"warming up: {row.name}")
        await measurement.warm(row)
    cells = []
    for number in range(plan.rounds):
        for kind in (*map(str, plan.levels), "paced", "streams"):
            for row in (*rows[number % len(rows) :], *rows[: number % len(rows)]):
                progress.tell(f"round {number + 1} of {plan.rounds}: {kind}, {row.name}")
                cells.append(await measurement.cell(row, kind, number))
    progress.done()
    return cells


def started(
    options: argparse.Namespace, machine: Machine, plan: Plan, provider: str, folder: Path, closing: ExitStack
) -> list[Row]:
    """Start the gateways that are wanted and can be had; the first row is the provider alone."""
    rows = [*rows_of(Alone(provider))]
    gateways: list[Gateway] = [
        made(provider, folder / name, machine.gateways) for name, made in GATEWAYS.items() if name in options.only
    ]
    for commit in options.against:
        try:
            code = installing.version(commit)
        except NotInstalled as reason:
            sys.exit(str(reason))
        gateways.append(Reservoir(provider, folder / commit, machine.gateways, code=code, version=commit))
    for gateway in gateways:
        progress.tell(f"starting {gateway.name}")
        try:
            closing.callback(gateway.stop)
            gateway.start()
        except NotInstalled as reason:
            progress.done(str(reason))
            continue
        if isinstance(gateway, Reservoir):
            progress.tell(f"filling {gateway.name} with {max(plan.levels)} scopes of {plan.messages:,} messages")
            gateway.fill(max(plan.levels), plan.messages)
        rows += rows_of(gateway)
    return [row for row in rows if row.name == PROVIDER or any(text in row.name for text in options.rows or [""])]


def memory_of(rows: list[Row]) -> dict[str, dict[str, float]]:
    """Resident megabytes of each gateway and of its PostgreSQL."""
    gateways = {row.gateway.name: row.gateway for row in rows if row.name != PROVIDER}
    return {
        name: {part: processes.resident_megabytes(tree) for part, tree in gateway.trees().items()}
        for name, gateway in gateways.items()
    }


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="script/benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""examples:
  script/benchmark --quick                            all gateways, in a few minutes
  script/benchmark --json FILE                        the figures for the documentation, in about half an hour
  script/benchmark --only reservoir,bare              without other gateways
  script/benchmark --only reservoir --against bd6deb3 this version beside another commit, in the same run
  script/benchmark --only reservoir --rows "memory off"   only the rows with this text in their names

LiteLLM and Portkey's gateway are installed below .venv-benchmark/ (delete the folder to be rid of them).
Run it on an idle machine: other programs on the gateways' core are noted below the table.""",
    )
    parser.add_argument("--quick", action="store_true", help="2 rounds of 2 seconds, 1 and 16 clients")
    parser.add_argument("--rounds", type=int, metavar="N", help="other than the usual number")
    parser.add_argument("--seconds", type=float, metavar="N", help="of each measurement")
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        default=[*GATEWAYS],
        metavar="NAMES",
        help="of bare, portkey, litellm and reservoir, with commas",
    )
    parser.add_argument("--against", action="append", default=[], metavar="COMMIT", help="another version beside it")
    parser.add_argument("--rows", action="append", metavar="TEXT", help="only rows with this text; may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements to this file")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    options = parsed(arguments)
    usual, machine = QUICK if options.quick else FULL, Machine()
    plan = Plan(options.rounds or usual.rounds, options.seconds or usual.seconds, usual.levels, usual.messages)
    with tempfile.TemporaryDirectory(prefix="reservoir-benchmark-") as folder, ExitStack() as closing:
        port = free_port()
        command = [sys.executable, "-m", "benchmarks.instant_provider", str(port)]
        provider = Process(command, core=machine.clients, log=Path(folder) / "provider", environment={})
        closing.callback(provider.stop)
        provider.wait_for(f"http://127.0.0.1:{port}/")
        rows = started(options, machine, plan, f"http://127.0.0.1:{port}", Path(folder), closing)
        with suppress(OSError):
            os.sched_setaffinity(0, {machine.clients})
        cells = uvloop.run(rounds(rows, machine, plan))
        memory = memory_of(rows)
    found = summary(cells)
    print(table(found, memory, [row.name for row in rows], plan.levels))
    if options.json:
        about: dict[str, Any] = {"plan": vars(plan), "machine": platform.platform(), "cores": os.cpu_count()}
        options.json.write_text(json.dumps({**about, "rows": found, "memory_mb": memory}, indent=2) + "\n")
