"""Clients that connect and send little or nothing cost the others nothing, and full slots are told."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from threading import Thread

import httpx
import pytest

from tests.fake_provider.answers import Answer, Gate, completion
from tests.fake_provider.provider import FakeProvider
from tests.faults.conftest import StartServer
from tests.faults.watching import eventually
from tests.server import Server

HALF_SENT, IDLE = 1_000, 8_000
OWN = 500  # file descriptors of this process besides
SLOTS = 50
SETTINGS = {"RESERVOIR_MAX_REQUESTS": str(SLOTS)}
BODY = {"model": "gpt-4", "messages": [{"role": "user", "content": "Are you there?"}]}


@pytest.fixture
def descriptors() -> Iterator[int]:
    """How many connections this process may open; the limit is raised for the test as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = IDLE + HALF_SENT + OWN
    most = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    yield max(soft, most) - OWN
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def ask(server: Server) -> httpx.Response:
    return httpx.post(f"{server.base_url('app', 'many')}/chat/completions", json=BODY, trust_env=False, timeout=300)


def connect(server: Server, number: int, sent: bytes, stack: ExitStack) -> None:
    for _ in range(number):
        raw = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=300))
        if sent:
            raw.sendall(sent)


def test_a_thousand_half_sent_requests_and_thousands_of_idle_connections_take_no_slot(
    server: Server, descriptors: int
) -> None:
    half = "POST /v1/partition/a/instance/b/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{"
    with ExitStack() as connections:
        connect(server, HALF_SENT, half.encode(), connections)
        connect(server, min(IDLE, descriptors - HALF_SENT), b"", connections)
        for _ in range(3):
            assert ask(server).status_code == 200
        ready = httpx.get(f"{server.url}/ready", trust_env=False, timeout=300)
        assert (ready.status_code, ready.json()["slots"]) == (200, "ready")
    assert ask(server).status_code == 200


def test_ready_tells_that_the_slots_are_full_and_that_they_are_free_again(
    start_server: StartServer, provider: FakeProvider, server: Server
) -> None:
    small = start_server({"RESERVOIR_MAX_REQUESTS": "2"}, home=server.home)
    gates = [Gate(), Gate()]
    provider.answer(*(Answer(body=[gate, completion("Yes.")]) for gate in gates))
    asking = [Thread(target=ask, args=[small]) for _ in gates]
    for thread in asking:
        thread.start()
    for gate in gates:
        assert gate.reached.wait(300)
    ready = httpx.get(f"{small.url}/ready", trust_env=False, timeout=300)
    assert (ready.status_code, ready.json()["slots"]) == (503, "full: 2 requests are running")
    refused = ask(small)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
    for gate in gates:
        gate.open()
    for thread in asking:
        thread.join()
    eventually(lambda: httpx.get(f"{small.url}/ready", trust_env=False, timeout=300).status_code == 200)
