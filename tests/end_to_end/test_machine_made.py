"""Requests that no person made are answered, and neither remembered nor given memory."""

from __future__ import annotations

import time
from pathlib import Path

import httpx

from tests.end_to_end import store
from tests.end_to_end.asking import Scope, chat, says
from tests.end_to_end.conftest import StartServer
from tests.fake_provider.provider import FakeProvider
from tests.server import Server

FACT = "The password of the cellar is swordfish."
TAGS = f"### Task:\nGenerate 1-3 broad tags for the history.\n<chat_history>\nUSER: {FACT}\n</chat_history>"
POLL = "Which jobs of the cellar are running at the moment?"


def test_a_front_ends_task_gets_no_memory_and_leaves_no_message(
    server: Server, scope: Scope, provider: FakeProvider
) -> None:
    chat(server, scope, says(FACT))
    answer = chat(server, scope, says(TAGS))
    assert answer.status_code == 200
    assert (answer.headers["x-reservoir-memory"], answer.headers["x-reservoir-memories"]) == ("off", "0")
    assert [m["content"] for m in provider.last.messages] == [TAGS]
    first, second = store.exchanges(server, scope)
    assert (first["rule"], second["rule"]) == ("", "open-webui")
    assert (second["memory"], second["ended"], second["parameters"], second["prompts"]) == ("off", "answered", "", [])
    assert {m["exchange_id"] for m in store.messages(server, scope)} == {first["id"]}
    chat(server, scope, says("What is the password of the cellar?"))
    assert "swordfish" in str(provider.last.messages)
    assert "### Task" not in str(provider.last.messages)


def test_the_recall_route_says_that_a_task_gets_no_memory(server: Server, scope: Scope) -> None:
    chat(server, scope, says(FACT))
    body = {"query": TAGS}
    answer = httpx.post(f"{server.base_url(*scope)}/recall", json=body, timeout=300, trust_env=False).json()
    assert (answer["memory"], answer["memories"], answer["latest"]) == ("off", [], [])


def test_a_poll_takes_no_room_in_the_block(server: Server, scope: Scope, provider: FakeProvider) -> None:
    chat(server, scope, says(FACT))
    answers = [chat(server, scope, says(POLL)) for _ in range(12)]
    assert [a.headers["x-reservoir-memory"] for a in answers] == ["on"] * 5 + ["off"] * 7
    assert [e["rule"] for e in store.exchanges(server, scope)] == [""] * 6 + ["repeated"] * 7
    assert len(store.messages(server, scope)) == 12
    chat(server, scope, says("What is the password of the cellar?"))
    assert "swordfish" in str(provider.last.messages)
    assert "Which jobs" not in str(provider.last.messages)


def test_a_partition_can_remember_everything_or_nothing(server: Server, scope: Scope, provider: FakeProvider) -> None:
    chat(server, scope, says(FACT))
    remember(server, scope, "all")
    assert chat(server, scope, says(TAGS)).headers["x-reservoir-memory"] == "on"
    assert "swordfish" in str(provider.last.messages[:-1])
    before = len(store.messages(server, scope))
    assert TAGS in [m["content"] for m in store.messages(server, scope)]
    remember(server, scope, "nothing")
    answer = chat(server, scope, says("What is the password of the cellar?"))
    assert answer.headers["x-reservoir-memory"] == "on"
    assert len(store.messages(server, scope)) == before
    assert len(store.exchanges(server, scope)) == 2


def remember(server: Server, scope: Scope, what: str) -> None:
    store.execute(server, "UPDATE conversations_partition SET remember = %s WHERE name = %s", what, scope[0])
    time.sleep(5.5)  # a process goes by what it has read for five seconds


def test_the_operators_rules_are_tried_first(start_beside: StartServer, scope: Scope, tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text('[[rules]]\nname = "nightly"\nheaders = { X-Job = "night*" }\n')
    server = start_beside({"RESERVOIR_RULES": str(rules)})
    chat(server, scope, says(FACT))
    assert chat(server, scope, says("Report."), X_Job="nightly").headers["x-reservoir-memory"] == "off"
    assert [e["rule"] for e in store.exchanges(server, scope)] == ["", "nightly"]
