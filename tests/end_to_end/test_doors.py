"""One memory behind three APIs: what was said through one is known through the others."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from anthropic import Anthropic
from openai import OpenAI

from tests.end_to_end.store import exchanges, messages
from tests.fake_provider import responses
from tests.fake_provider.provider import FakeProvider
from tests.server import PATIENCE, ROOT, Server, clean_environment

Scope = tuple[str, str]
Say = Callable[[str], Any]
PLACE = "My bicycle is chained to the third lamp post behind the old opera house."
ASK = "Where is my bicycle chained?"
DOORS = ("chat_completions", "responses", "messages")


def doors(server: Server, scope: Scope) -> dict[str, Say]:
    """What says a sentence through each API, by the real libraries."""
    openai = OpenAI(base_url=server.base_url(*scope), api_key="sk-1", max_retries=0, timeout=PATIENCE)
    base_url = f"{server.url}/partition/{scope[0]}/instance/{scope[1]}"
    claude = Anthropic(base_url=base_url, api_key="sk-2", max_retries=0, timeout=PATIENCE)
    return {
        "chat_completions": lambda text: openai.chat.completions.create(
            model="gpt-4", messages=[{"role": "user", "content": text}]
        ),
        "responses": lambda text: openai.responses.create(model="gpt-4", input=text),
        "messages": lambda text: claude.messages.create(
            model="claude-fake-1", max_tokens=50, messages=[{"role": "user", "content": text}]
        ),
    }


@pytest.mark.parametrize("first", DOORS)
def test_what_was_said_through_one_door_is_recalled_through_the_others(
    server: Server, provider: FakeProvider, scope: Scope, first: str
) -> None:
    say = doors(server, scope)
    say[first](PLACE)
    for other in DOORS:
        say[other](ASK)
        assert "third lamp post" in provider.last.body.decode(), other
    assert [e["dialect"] for e in exchanges(server, scope)] == [first, *DOORS]
    kept = messages(server, scope)
    assert [m["parent_id"] for m in kept[1:]] == [m["id"] for m in kept[:-1]]  # the admin shows one conversation


def test_a_conversation_goes_on_through_another_door(server: Server, provider: FakeProvider, scope: Scope) -> None:
    say = doors(server, scope)
    say["chat_completions"]("Hello")
    items = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "You said: Hello"}]
    body = {"model": "gpt-4", "input": [*items, {"role": "user", "content": "And now?"}]}
    httpx.post(f"{server.base_url(*scope)}/responses", json=body, timeout=300, trust_env=False)
    said = "You said: And now?"
    body = {"model": "c", "messages": [*body["input"], {"role": "assistant", "content": said}, items[0]]}
    httpx.post(f"{server.base_url(*scope)}/messages", json=body, timeout=300, trust_env=False)
    roles = [m["role"] for m in messages(server, scope)]
    assert roles == ["user", "assistant"] * 3


def test_an_export_and_its_import_keep_the_dialects(
    server: Server, provider: FakeProvider, scope: Scope, tmp_path: Path
) -> None:
    call = responses.call("get_weather", "{}", "call_1")
    provider.answer(responses.whole([responses.thought("x"), call], id="resp_first"))
    items = [{"type": "function_call_output", "call_id": "call_1", "output": "Sunny."}]
    follows = {"model": "gpt-4", "input": items, "previous_response_id": "resp_first"}
    for body in ({"model": "gpt-4", "input": "Weather?"}, follows):
        httpx.post(f"{server.base_url(*scope)}/responses", json=body, timeout=300, trust_env=False)
    say = doors(server, scope)
    for door in DOORS:
        say[door](f"Said through {door}.")
    url = f"{server.url}/v1/memory/export?partition={scope[0]}&instance={scope[1]}"
    lines = [json.loads(line) for line in io.StringIO(httpx.get(url, timeout=300, trust_env=False).text)]
    assert [line["exchange"]["dialect"] for line in lines if line["role"] == "user"] == ["responses", *DOORS]

    there = ("imported", scope[0])
    file = tmp_path / "export.jsonl"
    # What is there already is not imported: each message and exchange gets another identity.
    identity = partial(uuid.uuid5, uuid.NAMESPACE_OID)
    for line in lines:
        line |= {"partition": there[0], "instance": there[1], "uid": str(identity(line["uid"]))}
        line["trace_id"] = str(identity(line["trace_id"]))
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    command = [sys.executable, "manage.py", "import", str(file)]
    subprocess.run(command, cwd=ROOT, env=clean_environment() | server.settings, check=True, timeout=PATIENCE)

    told = ("dialect", "response_id", "follows", "parameters", "prompts", "finish_reason", "usage")

    def in_time(rows: list[dict[str, Any]], *names: str) -> list[Any]:
        return [[row[name] for name in names] for row in sorted(rows, key=lambda row: (row["created"], row["id"]))]

    assert in_time(exchanges(server, there), *told) == in_time(exchanges(server, scope), *told)
    of_message = ("role", "payload", "digest")
    assert in_time(messages(server, there), *of_message) == in_time(messages(server, scope), *of_message)
    # The chain goes on where it was imported: its latest answer is known by the provider's id.
    latest = next(e["response_id"] for e in exchanges(server, there) if e["follows"])
    body = {"model": "gpt-4", "input": "And tomorrow?", "previous_response_id": latest}
    httpx.post(f"{server.base_url(*there)}/responses", json=body, timeout=300, trust_env=False)
    assert provider.last.json == body
