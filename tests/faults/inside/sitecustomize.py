"""Runs inside a server under test, through its PYTHONPATH.

On SIGUSR1 the server writes a census of its tasks, threads and objects. Its clock is off by the seconds in
RESERVOIR_HOME/clock.
"""

import asyncio
import gc
import json
import os
import signal
import sys
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path
from types import FrameType

from django.utils import timezone


def _census(signum: int, frame: FrameType | None) -> None:
    gc.collect()
    tasks = sum(isinstance(found, asyncio.Task) and not found.done() for found in gc.get_objects())
    counts = {"tasks": tasks, "threads": threading.active_count(), "objects": len(gc.get_objects())}
    path = Path(os.environ["RESERVOIR_HOME"]) / "census.json"
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(counts))
    draft.rename(path)


def _wrong_by() -> float:
    try:
        return float((Path(os.environ["RESERVOIR_HOME"]) / "clock").read_text())
    except FileNotFoundError:
        return 0.0


def _set_clock() -> None:
    """Shift the two clocks from which Reservoir and Django take every stored time."""
    right_now, right_time = timezone.now, time.time

    def now() -> datetime:
        return right_now() + timedelta(seconds=_wrong_by())

    timezone.now = now
    time.time = lambda: right_time() + _wrong_by()


if sys.argv[-1:] == ["serve"] or "RESERVOIR_HOME" in os.environ:
    signal.signal(signal.SIGUSR1, _census)
    _set_clock()
