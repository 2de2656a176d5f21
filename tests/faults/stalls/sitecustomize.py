"""Runs inside a server under test, through its PYTHONPATH: how long does its event loop stand still?

Measured in CPU seconds of the process between two turns of the loop, so that other programs do not count. On SIGUSR2
the longest such stretch so far goes to RESERVOIR_HOME/stall, beside what a fixed piece of work costs on this machine.
"""

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import uvicorn

PERIOD_SECONDS = 0.001


class Watch:
    """Ticks in the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._longest = 0.0
        self._last = time.process_time()
        self.tick()
        loop.add_signal_handler(signal.SIGUSR2, self.tell)

    def tick(self) -> None:
        now = time.process_time()
        self._longest = max(self._longest, now - self._last)
        self._last = now
        self._loop.call_later(PERIOD_SECONDS, self.tick)

    def tell(self) -> None:
        path = Path(os.environ["RESERVOIR_HOME"]) / "stall"
        draft = path.with_suffix(".draft")
        draft.write_text(f"{self._longest} {unit()}")
        draft.rename(path)
        self._longest, self._last = 0.0, time.process_time()


def unit() -> float:
    """CPU seconds of a fixed piece of work: a few milliseconds on a machine of 2025. The least of three."""
    return min(_timed() for _ in range(3))


def _timed() -> float:
    begun = time.process_time()
    sum(number * number % 7 for number in range(100_000))
    return time.process_time() - begun


_startup = uvicorn.Server.startup


async def startup(self: uvicorn.Server, *arguments: Any, **named: Any) -> None:
    Watch(asyncio.get_running_loop())
    await _startup(self, *arguments, **named)


uvicorn.Server.startup = startup  # type: ignore[method-assign]
