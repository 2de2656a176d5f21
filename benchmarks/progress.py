"""What a benchmark is doing, on stderr."""

from __future__ import annotations

import sys


def tell(what: str) -> None:
    """One line that the next call overwrites on a terminal; nowhere else, so that logs stay short."""
    if sys.stderr.isatty():
        print(f"\r\033[K{what}", end="", file=sys.stderr, flush=True)


def done(what: str = "") -> None:
    """A line that stays, if there is something to say."""
    tell("")
    if what:
        print(what, file=sys.stderr, flush=True)
