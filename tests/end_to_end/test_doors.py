"""One memory behind three APIs: what was said through one is known through the others."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from anthropic import Anthropic
from openai import OpenAI

from tests.end_to_end.store import exchanges, messages
from tests.fake_provider.provider import FakeProvider
from tests.server import PATIENCE, Server

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


def test_an_export_keeps_the_dialects(server: Server, provider: FakeProvider, scope: Scope) -> None:
    say = doors(server, scope)
    for door in DOORS:
        say[door](f"Said through {door}.")
    url = f"{server.url}/v1/memory/export?partition={scope[0]}&instance={scope[1]}"
    lines = [json.loads(line) for line in io.StringIO(httpx.get(url, timeout=300, trust_env=False).text)]
    assert [line["exchange"]["dialect"] for line in lines if line["role"] == "user"] == list(DOORS)
