"""Messages of megabytes are stored whole and delay no other request, neither now nor later."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.fake_provider.provider import FakeProvider
from tests.faults.stored import rows
from tests.faults.watching import report
from tests.server import Server

pytestmark = pytest.mark.alone

MEGABYTES = 3 * 2**20


@contextmanager
def watched(server: Server) -> Iterator[list[float]]:
    """The duration of each health check meanwhile, in seconds."""
    took: list[float] = []
    ended = threading.Event()

    def probe() -> None:
        with httpx.Client(trust_env=False, timeout=300) as client:
            while not ended.wait(0.02):
                started = time.monotonic()
                client.get(f"{server.url}/live")
                took.append(time.monotonic() - started)

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield took
    finally:
        ended.set()
        thread.join()


def ask(server: Server, text: str, *scope: str) -> httpx.Response:
    body = {"model": "unknown", "messages": [{"role": "user", "content": text}]}
    url = f"{server.base_url(*scope)}/chat/completions"
    return httpx.post(url, json=body, timeout=300, trust_env=False)


@pytest.mark.parametrize("text", ["!", "A word of some. "], ids=["no words", "words"])
def test_a_question_of_megabytes_delays_no_other_request(server: Server, provider: FakeProvider, text: str) -> None:
    question = text * (MEGABYTES // len(text))
    scope = ("long", text.strip())
    with watched(server) as took:
        begun = time.monotonic()
        assert ask(server, question, *scope).status_code == 200
        whole = time.monotonic() - begun
    report(f"a question of megabytes took {whole:.2f} s; the slowest of {len(took)} others {max(took):.2f} s")
    # A thread or the event loop that does all of it in one go has others wait for most of that time.
    assert max(took) < whole / 2, f"another request waited for {max(took):.1f} of {whole:.1f} s"
    assert provider.last.messages[-1]["content"] == question
    (size,) = rows(server.home, "SELECT max(length(content)) FROM conversations_message")[0]
    assert size >= len(question) - 1


def test_a_scope_that_holds_megabytes_is_recalled_as_usual(server: Server, provider: FakeProvider) -> None:
    assert ask(server, "?" * MEGABYTES, "long", "later").status_code == 200
    answers = [ask(server, f"And now, number {number}?", "long", "later") for number in range(5)]
    memory = [answer.headers["x-reservoir-memory"] for answer in answers]
    assert memory.count("on") >= 4, memory  # embedding may delay one of them
    assert "And now, number 3?" in provider.last.body.decode()
