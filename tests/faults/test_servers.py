"""Two servers on one data folder: neither touches what the other has open; what a killed one left is given up."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.fake_provider.answers import Answer, Gate
from tests.fake_provider.provider import FakeProvider
from tests.faults.app import App
from tests.faults.conftest import StartServer
from tests.faults.stored import rows
from tests.faults.watching import eventually

LATEST = "SELECT ended FROM conversations_exchange ORDER BY id DESC LIMIT 1"


def test_a_start_touches_no_running_exchange_and_a_killed_server_s_are_given_up(
    start_server: StartServer, provider: FakeProvider
) -> None:
    app = App(start_server())
    home, gate = app.server.home, Gate()
    provider.answer(Answer(before=[gate]))
    with ThreadPoolExecutor(1) as client:
        asking = client.submit(app.ask, "still running")
        assert gate.reached.wait(300)
        eventually(lambda: rows(home, LATEST) == [("open",)])
        start_server(home=home)
        assert rows(home, LATEST) == [("open",)]
        app.server.kill()
        with pytest.raises(httpx.TransportError):
            asking.result()
    gate.open()
    eventually(lambda: rows(home, LATEST) == [("interrupted",)])
