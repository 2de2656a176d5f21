"""No input makes the event loop stand still for long, however it was made.

The server measures it in its own CPU time, and beside it what a fixed piece of work costs on this machine: ten of
those are some 50 ms on a machine of 2025. `python -m benchmarks.hostile` prints the milliseconds.
"""

from __future__ import annotations

import pytest

from tests.fake_provider.provider import FakeProvider
from tests.faults.hostile import KINDS, feed
from tests.faults.watching import WATCHED, stall
from tests.server import Server

SETTINGS = WATCHED
MOST = 20  # pieces of work: twice what is promised, as CPU time on a shared machine varies


@pytest.mark.parametrize("kind", KINDS)
def test_others_go_on_while_the_worst_of_each_kind_is_fed(kind: str, server: Server, provider: FakeProvider) -> None:
    stall(server)
    feed(kind, server, provider)
    found = stall(server)
    assert found.seconds < MOST * found.unit
    assert server.is_running
