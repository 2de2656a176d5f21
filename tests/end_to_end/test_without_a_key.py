"""A newcomer without a key: Reservoir in front of the provider of `manage.py fakeprovider`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from proxy.demo import fake_provider
from tests.end_to_end.conftest import StartServer
from tests.server import Server

TOASTER = "Write a one-sentence bedtime story about a brave little toaster."
SMALL_TALK = [f"Add {number} and {number + 1}." for number in range(2, 12)]


@pytest.fixture
def quoting_provider() -> Iterator[str]:
    """The base URL of the provider, in a thread of this process."""
    started, stop = threading.Event(), threading.Event()
    address: list[str] = []

    async def serve() -> None:
        async with fake_provider.serving() as base_url:
            address.append(base_url)
            started.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert started.wait(60)
        yield address[0]
    finally:
        stop.set()
        thread.join(60)


@pytest.fixture
def quoting_client(
    start_beside: StartServer, quoting_provider: str, scope: tuple[str, str], tmp_path: Path
) -> Iterator[OpenAI]:
    server: Server = start_beside({"RSV_OPENAI_BASE_URL": quoting_provider})
    with OpenAI(base_url=server.base_url(*scope), api_key="any", max_retries=0, timeout=300) as client:
        yield client


def ask(client: OpenAI, text: str, *, stream: bool = False) -> str:
    if not stream:
        chat = client.chat.completions.create(model="gpt-4", messages=[{"role": "user", "content": text}])
        return chat.choices[0].message.content or ""
    chunks = client.chat.completions.create(model="gpt-4", messages=[{"role": "user", "content": text}], stream=True)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def test_the_question_in_readme_is_answered_from_memory(quoting_client: OpenAI) -> None:
    assert "toaster" not in ask(quoting_client, "What was the toaster like?")
    ask(quoting_client, TOASTER)
    assert "brave little toaster" in ask(quoting_client, "What was the toaster like?")
    assert "brave little toaster" in ask(quoting_client, "And what was the toaster like?", stream=True)


def test_an_old_fact_is_answered_from_the_memory_block(quoting_client: OpenAI) -> None:
    for text in ("Please note: my cat is called Miso and she is afraid of umbrellas.", *SMALL_TALK):
        ask(quoting_client, text)
    answer = ask(quoting_client, "What is my cat called?")
    assert "my cat is called Miso" in answer
    assert "UTC" in answer, "it stands in the block, not in a recent turn"
