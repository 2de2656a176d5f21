"""Inspect processes, wait for conditions, and report figures."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.server import PATIENCE, ROOT, Server

WATCHED = {"PYTHONPATH": str(ROOT / "tests" / "faults" / "stalls")}  # settings with which `stall` works


def report(figures: str) -> None:
    """Print figures for `pytest -s`."""
    print(f"\n{figures}", file=sys.stderr)


def eventually(holds: Callable[[], bool], seconds: float = 300) -> None:
    """Wait until `holds` returns True. Raises AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"the condition did not hold within {seconds:.0f} s"
        time.sleep(0.02)


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def workers(server: Server) -> list[int]:
    """The process ids of the workers: the children of uvicorn's supervisor, or the server itself."""
    assert server.process
    spawned = [pid for pid in children(server.process.pid) if b"spawn_main" in command_line(pid)]
    return spawned or [server.process.pid]


def postmaster(home: Path) -> int | None:
    """The process id of the home's PostgreSQL, or None if it does not run."""
    try:
        pid = int((home / "postgres" / "data" / "postmaster.pid").read_text().split()[0])
    except (FileNotFoundError, ValueError, IndexError):
        return None
    return pid if b"postgres" in command_line(pid) else None


def resident(pid: int) -> int:
    """Resident memory of a process in bytes; 0 if it does not exist."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, ProcessLookupError):
        return 0


def open_files(pid: int) -> int:
    """Number of open file descriptors of a process; 0 if it does not exist."""
    try:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except (FileNotFoundError, ProcessLookupError):
        return 0


@dataclass(frozen=True)
class Stall:
    """The longest stretch for which the event loop stood still, and a fixed piece of work, both in CPU seconds."""

    seconds: float
    unit: float


def stall(server: Server) -> Stall:
    """The longest stall since the last call. The server runs with the settings WATCHED."""
    assert server.process
    path = server.home / "stall"
    path.unlink(missing_ok=True)
    server.process.send_signal(signal.SIGUSR2)
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert server.is_running and time.monotonic() < deadline, server.log
        time.sleep(0.01)
    return Stall(*map(float, path.read_text().split()))
