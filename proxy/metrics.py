"""Figures for Prometheus: what requests do, how long and at what cost, and when memory is degraded, and why.

With several workers the figures are kept in files that all of them share (prometheus_client's multiprocess mode).
Labels have few values: beyond MOST_NAMES, names that clients choose count as "other". Nothing here is content.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's variable
MOST_NAMES = 200  # models, and partitions
OTHER = "other"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
WHOSE = ("provider", "model", "partition")

_http = Counter("reservoir_http_requests", "Requests by kind of route and status.", ("route", "status"))
_exchanges = Counter("reservoir_exchanges", "Exchanges by how they ended.", (*WHOSE, "ended"))
_phases = Histogram("reservoir_phase_seconds", "How long each phase of an exchange took.", ("phase",), buckets=SECONDS)
_tokens = Counter("reservoir_tokens", "Tokens as the provider counts them.", (*WHOSE, "direction"))
_cost = Counter("reservoir_cost_dollars", "US dollars, where the price is known.", WHOSE)
_memories = Counter("reservoir_memories", "Stored messages that were added to requests.")
_degraded = Counter("reservoir_degraded", "Requests whose recall or storing was late or failed.", ("why",))
_errors = Counter(
    "reservoir_provider_errors", "Errors of providers: an HTTP status, or what broke.", ("provider", "kind")
)
_slots = Gauge("reservoir_slots_taken", "Requests that are running.", multiprocess_mode="livesum")
_most_slots = Gauge("reservoir_slots", "Requests that may run, of all workers.", multiprocess_mode="livesum")
_queue = Gauge("reservoir_queue_messages", "Messages that wait for a vector.", multiprocess_mode="mostrecent")
_spool = Gauge("reservoir_spool_bytes", "Exchanges that wait on disk.", multiprocess_mode="mostrecent")


@dataclass(frozen=True, slots=True)
class Ended:
    """An exchange that has ended: `usage` is the provider's, `timings` are milliseconds of each phase."""

    provider: str
    model: str
    partition: str  # "" unless RESERVOIR_METRICS_PARTITIONS
    ended: str
    usage: Mapping[str, Any]
    cost: Decimal | None
    timings: Mapping[str, float]
    memories: int


class _Names:
    """The names of a label that clients choose: the first MOST_NAMES of them."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def label(self, name: str) -> str:
        if name in self._known:
            return name
        if len(self._known) >= MOST_NAMES or len(name) > 100:
            return OTHER
        self._known.add(name)
        return name


_models, _partitions = _Names(), _Names()


def answered(route: str, status: int) -> None:
    """A request to this kind of route was answered; status 0 when the client left first."""
    _http.labels(route, str(status)).inc()


def exchange_ended(found: Ended) -> None:
    """Count an exchange."""
    whose = (found.provider, _models.label(found.model), _partitions.label(found.partition))
    _exchanges.labels(*whose, found.ended).inc()
    for direction, name in (("input", "prompt_tokens"), ("output", "completion_tokens")):
        if type(count := found.usage.get(name)) is int and 0 < count < 2**31:
            _tokens.labels(*whose, direction).inc(count)
    if found.cost:
        _cost.labels(*whose).inc(float(found.cost))
    for phase, milliseconds in found.timings.items():
        _phases.labels(phase).observe(milliseconds / 1000)
    if found.memories:
        _memories.inc(found.memories)
    if found.ended == "cut":
        provider_failed(found.provider, "cut")


def provider_failed(provider: str, kind: str) -> None:
    """A provider gave no answer or cut it short, or its answer is an error; `kind` is its status, or what happened."""
    _errors.labels(provider, kind).inc()


def degraded(why: str) -> None:
    """Recall or storing was late or failed."""
    _degraded.labels(why).inc()


def slots_taken(running: int, most: int) -> None:
    """How many requests run in this process, and how many may."""
    _slots.set(running)
    _most_slots.set(most)


def waiting(*, messages: int | None, spooled: int) -> None:
    """How many messages wait for a vector (None if the database does not answer), and bytes wait on disk."""
    if messages is not None:
        _queue.set(messages)
    _spool.set(spooled)


def exposition() -> bytes:
    """All figures in Prometheus's text format, of all workers."""
    folder = os.environ.get(FOLDER)
    if not folder:
        return generate_latest(REGISTRY)
    for path in Path(folder).glob("gauge_live*_*.db"):
        pid = int(path.stem.rpartition("_")[2])
        if not _is_alive(pid):
            mark_process_dead(pid)  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
