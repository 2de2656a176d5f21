"""From measurements to a table. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PROVIDER = "provider alone"
NOTED = 0.03  # share of the gateways' core that other programs may take before it is noted

Figures = dict[str, float]


@dataclass(frozen=True)
class Cell:
    """One row under one kind of load in one round; `kind` is a number of clients, "paced" or "streams"."""

    row: str
    kind: str
    round: int
    answers: int
    statuses: Mapping[str, int]  # "0" for a connection that broke
    degraded: int
    seconds: float  # of the load
    drained_for: float  # seconds after it, until nothing was left to do
    times_ms: Sequence[float]
    first_bytes_ms: Sequence[float]
    cpu_seconds: Mapping[str, float]  # by part: gateway, postgres
    others_seconds: float  # what other programs took of the gateways' core


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that this share of the values does not exceed; NaN without values."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else math.nan


def summary(cells: Sequence[Cell]) -> dict[str, dict[str, Figures]]:
    """For each row and kind of load: the figures of all rounds together, the rate as the median of the rounds."""
    found: dict[str, dict[str, Figures]] = {}
    for row, kind in dict.fromkeys((cell.row, cell.kind) for cell in cells):
        mine = [cell for cell in cells if (cell.row, cell.kind) == (row, kind)]
        answers = sum(cell.answers for cell in mine)
        asked = sum(sum(cell.statuses.values()) for cell in mine)
        times = [time for cell in mine for time in cell.times_ms]
        first_bytes = [time for cell in mine for time in cell.first_bytes_ms]
        cpu = {part: sum(cell.cpu_seconds.get(part, 0.0) for cell in mine) for part in ("gateway", "postgres")}
        spent = sum(cell.seconds + cell.drained_for for cell in mine)
        found.setdefault(row, {})[kind] = {
            "answers": answers,
            "other_answers": asked - answers,
            "degraded_percent": 100 * sum(cell.degraded for cell in mine) / max(asked, 1),
            "per_second": statistics.median(cell.answers / cell.seconds for cell in mine),
            "per_second_with_draining": answers / spent,
            "p50_ms": percentile(times, 0.5),
            "p99_ms": percentile(times, 0.99),
            "first_byte_p50_ms": percentile(first_bytes, 0.5),
            "first_byte_p99_ms": percentile(first_bytes, 0.99),
            "cpu_ms_gateway": 1000 * cpu["gateway"] / max(answers, 1),
            "cpu_ms_postgres": 1000 * cpu["postgres"] / max(answers, 1),
            "others_share": sum(cell.others_seconds for cell in mine) / spent,
        }
    return found


def table(
    found: Mapping[str, Mapping[str, Figures]],
    memory: Mapping[str, Mapping[str, float]],
    rows: Sequence[str],
    levels: Sequence[int],
) -> str:
    """The table as Markdown, and notes below it."""
    most = str(sorted(levels)[min(1, len(levels) - 1)])  # CPU and the tail are stated for this number of clients
    heads = [
        "",
        f"CPU ms a request, {most} clients: gateway",
        "PostgreSQL",
        "ms more than the provider, 1 client: p50",
        "p99",
        *(f"requests/s, {level} client{'s' if level > 1 else ''}" for level in levels),
        *(f"degraded, {level}" for level in levels if level > 1),
        "first byte of a stream, ms later",
        "streams/s",
    ]
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    base = found[PROVIDER]
    for row in rows:
        mine, alone = found[row], row == PROVIDER
        one, many = mine[str(levels[0])], mine[most]
        added = {name: one[name] - (0 if alone else base[str(levels[0])][name]) for name in ("p50_ms", "p99_ms")}
        later = mine["paced"]["first_byte_p50_ms"] - (0 if alone else base["paced"]["first_byte_p50_ms"])
        lines.append(
            [
                row,
                "" if alone else f"{many['cpu_ms_gateway']:.2f}",
                "" if alone else f"{many['cpu_ms_postgres']:.2f}",
                *(f"({value:.2f})" if alone else f"{value:.2f}" for value in added.values()),
                *(f"{mine[str(level)]['per_second']:.0f}" for level in levels),
                *(f"{mine[str(level)]['degraded_percent']:.1f} %" for level in levels if level > 1),
                f"({later:.2f})" if alone else f"{later:.2f}",
                f"{mine['streams']['per_second']:.0f}",
            ]
        )
    parts = [
        "\n".join("| " + " | ".join(line) + " |" for line in lines),
        "\n".join(_memory(name, megabytes) for name, megabytes in memory.items()),
        "\n".join(notes(found)),
    ]
    return "\n\n".join(filter(None, parts))


def _memory(name: str, megabytes: Mapping[str, float]) -> str:
    return f"{name}: " + ", ".join(f"{size:.0f} MB ({part})" for part, size in megabytes.items())


def notes(found: Mapping[str, Mapping[str, Figures]]) -> list[str]:
    """What makes figures doubtful."""
    told = []
    for row, kinds in found.items():
        for kind, figures in kinds.items():
            if figures["other_answers"]:
                load = f"{kind} client{'s' if kind != '1' else ''}" if kind.isdigit() else kind
                told.append(f"{row}, {load}: {figures['other_answers']:.0f} requests were refused or failed.")
        others = max(figures["others_share"] for figures in kinds.values())
        if others > NOTED:
            told.append(f"{row}: other programs took up to {100 * others:.0f} % of the gateways' core.")
    return told
