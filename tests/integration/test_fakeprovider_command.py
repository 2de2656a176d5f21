"""`manage.py fakeprovider`: the real `openai` library talks to it, without a database."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest
from openai import OpenAI

from tests.server import ROOT, clean_environment

FACT = "My cat is called Miso."
QUESTION = "What is my cat called?"


@dataclass
class Command:
    process: subprocess.Popen[str]
    base_url: str
    home: Path


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    home = tmp_path_factory.mktemp("home")
    process = subprocess.Popen(
        [sys.executable, "manage.py", "fakeprovider", "--port", "0", "--delay", "0"],
        cwd=ROOT,
        env=clean_environment() | {"RESERVOIR_HOME": str(home / "reservoir"), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout
        first = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/v1", first)
        assert address, first
        yield Command(process, address[0], home)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def client(command: Command) -> Iterator[OpenAI]:
    with OpenAI(base_url=command.base_url, api_key="any", max_retries=0, timeout=300) as client:
        yield client


def test_it_answers_from_the_turns_that_it_is_given(client: OpenAI) -> None:
    chat = client.chat.completions.create(
        model="gpt-4",
        messages=[
            {"role": "user", "content": FACT},
            {"role": "assistant", "content": "Noted."},
            {"role": "user", "content": QUESTION},
        ],
    )
    assert FACT in (chat.choices[0].message.content or "")
    assert chat.choices[0].finish_reason == "stop"
    assert chat.usage and chat.usage.total_tokens == chat.usage.prompt_tokens + chat.usage.completion_tokens


def test_it_streams_the_same_answer_with_usage_when_asked(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="gpt-4",
            messages=[{"role": "user", "content": FACT}, {"role": "user", "content": QUESTION}],
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text.endswith(f'"{FACT}"')
    assert chunks[-1].usage and chunks[-1].usage.completion_tokens > 0
    assert chunks[-2].choices[0].finish_reason == "stop"


def test_it_prints_what_it_receives(command: Command, client: OpenAI) -> None:
    client.chat.completions.create(model="gpt-4", messages=[{"role": "user", "content": "A parrot\x1b[2J of mine."}])
    assert command.process.stdout
    line = next(line for line in command.process.stdout if "parrot" in line)
    assert line.strip() == r"user: A parrot\x1b[2J of mine.", "what could act on the terminal is escaped"


def test_it_lists_models(client: OpenAI) -> None:
    assert "gpt-4" in [model.id for model in client.models.list()]
    assert client.models.retrieve("vendor/model").id == "vendor/model"


def test_it_refuses_other_requests_in_openais_shape(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.embeddings.create(model="text-embedding-3-small", input="one")
    assert missing.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError):
        client.post("/chat/completions", cast_to=object, body={"messages": 5})


def test_an_occupied_port_is_one_sentence(command: Command) -> None:
    port = command.base_url.split(":")[2].removesuffix("/v1")
    done = subprocess.run(
        [sys.executable, "manage.py", "fakeprovider", "--port", port],
        cwd=ROOT,
        env=os.environ | {"RESERVOIR_HOME": str(command.home / "reservoir")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    assert f"Port {port} cannot be used" in done.stderr and "Traceback" not in done.stderr


def test_it_starts_no_database(command: Command, client: OpenAI) -> None:
    assert not (command.home / "reservoir" / "postgres").exists()
