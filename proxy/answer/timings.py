"""How long each phase of a request takes."""

from __future__ import annotations

import time
from typing import Literal, get_args

Phase = Literal["recall", "enrich", "provider", "answer"]
PHASES: tuple[Phase, ...] = get_args(Phase)  # in the order in which they happen


class Stopwatch:
    """Milliseconds of each phase, for the header `Server-Timing` and for the exchange."""

    def __init__(self) -> None:
        self._started = self._last = time.perf_counter()
        self.phases: dict[str, float] = {}

    def lap(self, phase: Phase) -> None:
        """End the phase now."""
        now = time.perf_counter()
        self.phases[phase] = round((now - self._last) * 1000, 2)
        self._last = now

    def total(self) -> dict[str, float]:
        """The phases so far, and their total."""
        return self.phases | {"total": round((time.perf_counter() - self._started) * 1000, 2)}

    def header(self) -> str:
        """The value of `Server-Timing` (W3C Server Timing)."""
        return ", ".join(f"{phase};dur={ms:.1f}" for phase, ms in self.phases.items())
