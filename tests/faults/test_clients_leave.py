"""Many clients leave: the provider's requests end at once, partial answers are stored, and nothing leaks."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.fake_provider.answers import Answer, Gate, Request, stream_events
from tests.fake_provider.provider import FakeProvider
from tests.faults.stored import rows, waiting
from tests.faults.watching import eventually, open_files, report
from tests.server import ROOT, Server

pytestmark = pytest.mark.alone

TIMES = 1000
LIMIT = 40  # requests at once
SETTINGS = {"PYTHONPATH": str(ROOT / "tests" / "faults" / "inside")}
EVENTS = stream_events("one two three four")


def leave(server: Server, instance: str, when: Callable[[socket.socket], object], *, stream: bool) -> None:
    """Ask, wait for `when`, and close the connection."""
    message = {"role": "user", "content": f"hello from {instance}"}
    body = json.dumps({"model": "gpt-4", "stream": stream, "messages": [message]})
    head = [
        f"POST /v1/partition/leaving/instance/{instance}/chat/completions HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.settimeout(300)
        connection.sendall("\r\n".join([*head, "", body]).encode())
        when(connection)


def has_read_three_words(connection: socket.socket) -> None:
    seen = b""
    while b"three" not in seen:
        data = connection.recv(65536)
        assert data, seen
        seen += data


def census(server: Server) -> dict[str, int]:
    """Count the server's tasks, threads, descriptors, and sockets to the provider and from clients."""
    assert server.process
    path = server.home / "census.json"
    path.unlink(missing_ok=True)
    os.kill(server.process.pid, signal.SIGUSR1)
    eventually(path.exists)
    found: dict[str, int] = json.loads(path.read_text())
    return found | {"descriptors": open_files(server.process.pid)}


def quiet(server: Server) -> dict[str, int]:
    """The census, once its numbers have stopped falling."""
    before = census(server)
    while True:
        time.sleep(0.3)
        now = census(server)
        if now["tasks"] >= before["tasks"] and now["descriptors"] >= before["descriptors"]:
            return now
        before = now


ENDED = """SELECT e.ended, count(*), count(m.id) FILTER (WHERE m.partial), min(m.content)
           FROM conversations_exchange e JOIN conversations_instance i ON i.id = e.instance_id
           LEFT JOIN conversations_message m ON m.exchange_id = e.id AND m.role = 'assistant'
           WHERE i.name LIKE %s GROUP BY 1"""


KINDS = ["mid-stream", "before the stream", "not streamed"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_that_leaves_stops_the_provider_within_a_second_and_the_partial_answer_is_stored(
    kind: str, server: Server, provider: FakeProvider
) -> None:
    mid, name = kind == "mid-stream", f"one-{KINDS.index(kind)}"
    beginning = Answer(200, [("Content-Type", "text/event-stream")], [*EVENTS[:4], Gate()])
    provider.answer(beginning if mid else Answer(before=[Gate()]))
    when = has_read_three_words if mid else lambda _: provider.wait_for(1)
    leave(server, name, when, stream=kind != "not streamed")
    left = time.monotonic()
    (request,) = provider.requests
    assert request.gone.wait(300), "the provider still works for a client that has left"
    assert request.gone_at
    report(f"{kind}: the provider's request has ended {(request.gone_at - left) * 1000:.0f} ms after the client left")
    eventually(lambda: [ended for ended, *_ in rows(server.home, ENDED, name)] not in ([], ["open"]))
    assert rows(server.home, ENDED, name) == [("gone", 1, int(mid), "one two three" if mid else None)]


def test_a_thousand_clients_that_leave_leak_nothing(server: Server, provider: FakeProvider) -> None:
    came: dict[str, threading.Event] = defaultdict(threading.Event)

    def answer(request: Request) -> Answer:
        text = request.messages[-1]["content"]
        came[text].set()
        if text.endswith("-mid"):
            return Answer(200, [("Content-Type", "text/event-stream")], [*EVENTS[:4], Gate()])
        return Answer(before=[Gate()])

    def one(number: int) -> None:
        kind = ("mid", "before", "whole")[number % 3]
        name = f"many-{number}-{kind}"
        arrived = came[f"hello from {name}"]
        leave(
            server, name, has_read_three_words if kind == "mid" else lambda _: arrived.wait(300), stream=kind != "whole"
        )

    provider.answer_always(answer)
    with ThreadPoolExecutor(16) as clients:
        list(clients.map(one, range(-60, 0)))
        before = quiet(server)
        begun = time.monotonic()
        list(clients.map(one, range(TIMES)))
    after = quiet(server)
    report(f"{TIMES} clients left in {time.monotonic() - begun:.0f} s: {before} before, {after} after")
    assert after["tasks"] <= before["tasks"] + 2
    assert after["threads"] <= before["threads"] + 2
    assert after["descriptors"] <= before["descriptors"] + 10
    eventually(lambda: all(request.gone.is_set() for request in provider.chats))
    query = """SELECT e.ended, count(*) FROM conversations_exchange e JOIN conversations_instance i
               ON i.id = e.instance_id WHERE i.name LIKE %s GROUP BY 1"""
    eventually(lambda: sum(count for _, count in rows(server.home, query, "many-%")) == TIMES + 60)
    eventually(lambda: waiting(server.home) == 0)
    assert rows(server.home, query, "many-%") == [("gone", TIMES + 60)]


def test_excess_concurrent_requests_get_retry_after_immediately(server: Server, provider: FakeProvider) -> None:
    gate = Gate()
    provider.answer_always(lambda request: Answer(before=[gate]))
    body = {"model": "gpt-4", "messages": [{"role": "user", "content": "hello"}]}
    with Server(server.home, provider.base_url, settings={"RESERVOIR_MAX_REQUESTS": str(LIMIT)}) as small:
        overload(small, provider, gate, f"{small.base_url('overload', 'x')}/chat/completions", body)


def overload(server: Server, provider: FakeProvider, gate: Gate, url: str, body: Mapping[str, object]) -> None:
    with (
        httpx.Client(trust_env=False, timeout=300, limits=httpx.Limits()) as http,
        ThreadPoolExecutor(LIMIT) as clients,
    ):
        running = [clients.submit(http.post, url, json=body) for _ in range(LIMIT)]
        provider.wait_for(LIMIT)
        with httpx.Client(trust_env=False) as other:
            other.get(f"{server.url}/live")
            begun = time.monotonic()
            refused = [other.post(url, json=body) for _ in range(50)]
            took = (time.monotonic() - begun) / 50
            assert other.get(f"{server.url}/live").status_code == 200
        assert {answer.status_code for answer in refused} == {503}
        assert refused[0].headers["retry-after"] == "1"
        assert refused[0].json()["error"]["code"] == "overloaded"
        provider.answer_always(None)
        gate.open()
        assert {future.result().status_code for future in running} == {200}
        report(f"overload: {LIMIT} requests run, others are refused in {took * 1000:.1f} ms")
        begun = time.monotonic()
        assert http.post(url, json=body).status_code == 200
        assert took < time.monotonic() - begun, "a refusal takes as long as an answer"
