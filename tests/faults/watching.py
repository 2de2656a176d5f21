"""Inspect processes, wait for conditions, and report figures."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.server import Server


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
