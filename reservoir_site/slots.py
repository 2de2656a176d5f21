"""How many requests to the API run in this process; RESERVOIR_MAX_REQUESTS is the limit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings

from proxy import metrics
from proxy.errors import Overloaded


class Slots:
    """A request holds a slot from the moment its body has arrived until its end."""

    def __init__(self) -> None:
        self.running = 0

    @property
    def problem(self) -> str | None:
        """Why the next request would be refused, None if it would not."""
        full = self.running >= settings.RESERVOIR_MAX_REQUESTS
        return f"full: {self.running} requests are running" if full else None

    def check(self) -> None:
        """Raises Overloaded when all slots are taken."""
        if self.problem:
            raise Overloaded("Too many requests are running: try again in a second.")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold a slot. Raises Overloaded."""
        self.check()
        self.running += 1
        self.tell()
        try:
            yield
        finally:
            self.running -= 1
            self.tell()

    def tell(self) -> None:
        """Tell the metrics."""
        metrics.slots_taken(self.running, settings.RESERVOIR_MAX_REQUESTS)


slots = Slots()  # of this process
