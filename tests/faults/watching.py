"""Looking at processes, waiting for what is to come about, and figures for whoever watches."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.server import Server


def report(figures: str) -> None:
    """Figures for whoever watches (`pytest -s`)."""
    print(f"\n{figures}", file=sys.stderr)


def eventually(holds: Callable[[], bool], seconds: float = 300) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came about"
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
    """The processes that serve: those of uvicorn's supervisor, or the server's own."""
    assert server.process
    spawned = [pid for pid in children(server.process.pid) if b"spawn_main" in command_line(pid)]
    return spawned or [server.process.pid]


def postmaster(home: Path) -> int | None:
    """The process id of the home's PostgreSQL, if there is one."""
    try:
        pid = int((home / "postgres" / "data" / "postmaster.pid").read_text().split()[0])
    except (FileNotFoundError, ValueError, IndexError):
        return None
    return pid if b"postgres" in command_line(pid) else None


def resident(pid: int) -> int:
    """Bytes of memory that a process holds; 0 where it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, ProcessLookupError):
        return 0


def open_files(pid: int) -> int:
    """How many descriptors a process holds; 0 where it is gone."""
    try:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except (FileNotFoundError, ProcessLookupError):
        return 0
