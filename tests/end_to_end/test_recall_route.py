"""The recall route shows which memories a request would get, and why, without changing anything."""

from __future__ import annotations

import json
import time
from operator import itemgetter
from typing import Any

import httpx
import pytest

from conversations.ledger_entries import nearest, pack, unpack
from proxy.memory.ledger import MISSES
from tests.end_to_end import store
from tests.end_to_end.conftest import StartServer
from tests.fake_provider.provider import FakeProvider
from tests.server import Server

Scope = tuple[str, str]

FACT = "The password of the cellar is swordfish."
QUESTION = "What is the password of the cellar?"
SMALL_TALK = ("rain", "trains", "soup", "tennis", "films", "paint", "bread", "maps", "glue", "stamps", "kites", "tea")


def ask(server: Server, scope: Scope, *texts: str) -> None:
    """Send a request with a history: all texts but the last are earlier turns."""
    messages = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]
    body = {"model": "gpt-4", "messages": messages}
    url = f"{server.base_url(*scope)}/chat/completions"
    httpx.post(url, json=body, timeout=300, trust_env=False).raise_for_status()
    deadline = time.monotonic() + 300
    while any(message["embed_due"] for message in store.messages(server, scope)):
        assert time.monotonic() < deadline, "the backlog is not worked off"
        time.sleep(0.02)


def fill(server: Server, scope: Scope) -> None:
    """State the fact, then more turns than are added as the latest ones."""
    talk = [text for word in SMALL_TALK for text in (f"Let us talk about {word}.", f"I know little of {word}.")]
    ask(server, scope, FACT, "I shall keep it in mind.", *talk, "That was nice.")


def recall(server: Server, scope: Scope, query: Any = None, *, status: int = 200, **fields: Any) -> dict[str, Any]:
    fields = {"query": query} | fields if query is not None else fields
    url, body = f"{server.base_url(*scope)}/recall", json.dumps(fields)
    response = httpx.post(url, content=body, timeout=300, trust_env=False)
    assert response.status_code == status, response.text
    found: dict[str, Any] = response.json()
    return found


def test_a_memory_is_explained(server: Server, scope: Scope) -> None:
    fill(server, scope)
    found = recall(server, scope, QUESTION)
    memory = found["memories"][0]
    assert (memory["role"], memory["name"], memory["content"]) == ("user", "", FACT)
    assert memory["created_at"][:2] == "20"
    assert memory["kept"] is True
    assert memory["why"].startswith("shown: ")
    assert memory["score"] > found["memories"][-1]["score"]
    assert memory["arms"]["vector"]["rank"] == memory["arms"]["words"]["rank"] == 1
    assert (memory["piece"], memory["text"]) == ([0, len(FACT)], FACT)
    assert 5 < memory["tokens"] < 30
    assert FACT in found["block"]
    assert found["block"].startswith("<memory>")
    assert 0 < len(found["latest"]) <= 15
    assert {entry["why"] for entry in found["latest"]} == {"shown: one of the latest messages"}
    assert (found["memory"], found["budget"]) == ("on", 1000)
    assert set(found["timings"]) == {"recall", "enrich", "total"}


def test_recall_matches_what_a_request_gets_and_what_its_ledger_says(
    server: Server, scope: Scope, provider: FakeProvider
) -> None:
    fill(server, scope)
    found = recall(server, scope, QUESTION)
    ask(server, scope, QUESTION)
    *sent, question = provider.last.messages
    assert question["content"] == QUESTION
    assert [m["content"] for m in sent] == [e["content"] for e in found["latest"]] + [found["block"]]
    trace_id = store.exchanges(server, scope)[-1]["trace_id"]
    whole = httpx.get(f"{server.url}/v1/memory/exchanges/{trace_id}", timeout=300, trust_env=False).json()
    ledger = whole["ledger"]
    of_the_message = {"role", "name", "created_at", "content", "text"}
    entries = [
        {key: value for key, value in entry.items() if key not in of_the_message}
        for entry in (*found["latest"], *found["memories"])
    ]
    kept = nearest(entries, MISSES, itemgetter("kept"))
    assert ledger["candidates"] == unpack(pack(kept))
    assert ledger["candidates"][-1]["score"] == round(kept[-1]["score"], 2)
    assert 0 < sum(not entry["kept"] for entry in ledger["candidates"]) <= MISSES
    assert ledger["tokens"] == found["tokens"]
    assert ledger["exact"] is True
    assert json.loads(ledger["injected"][-1])["content"] == found["block"]
    assert ledger["injected"] == [json.dumps(message) for message in sent]


def test_get_and_post_give_the_same_answer(server: Server, scope: Scope) -> None:
    fill(server, scope)
    posted = recall(server, scope, QUESTION, budget=300, limit=3)
    url = f"{server.base_url(*scope)}/recall"
    got = httpx.get(url, params={"query": QUESTION, "budget": 300, "limit": 3}, trust_env=False).json()
    del posted["timings"], got["timings"]
    assert got == posted


def test_recall_writes_nothing_and_calls_no_provider(server: Server, scope: Scope, provider: FakeProvider) -> None:
    fill(server, scope)
    named = "SELECT relname FROM pg_class WHERE relname ~ '^conversations_' AND relkind = 'r'"
    tables = [row["relname"] for row in store.rows(server, named)]

    def counts() -> list[int]:
        query = " UNION ALL ".join(f"(SELECT count(*) AS n, '{name}' AS t FROM {name})" for name in tables)
        return [row["n"] for row in store.rows(server, f"{query} ORDER BY t")]

    before, asked = counts(), len(provider.requests)
    recall(server, scope, QUESTION)
    recall(server, ("unused", "ever"), QUESTION)
    assert counts() == before
    assert len(provider.requests) == asked


def test_a_scope_that_does_not_exist_has_no_memories(server: Server) -> None:
    found = recall(server, ("unused", "as yet"), QUESTION)
    assert (found["memories"], found["latest"], found["block"], found["tokens"]) == ([], [], "", 0)
    assert (found["partition"], found["instance"]) == ("unused", "as yet")


def test_memories_of_other_scopes_are_invisible(server: Server, scope: Scope) -> None:
    fill(server, scope)
    assert recall(server, (scope[0], "other"), QUESTION)["memories"] == []


def test_budget_and_limit_hold_and_messages_without_room_are_still_listed(server: Server, scope: Scope) -> None:
    fill(server, scope)
    assert len(recall(server, scope, QUESTION, limit=2)["memories"]) == 2
    nothing = recall(server, scope, QUESTION, budget=0)
    assert nothing["block"] == ""
    fact = next(memory for memory in nothing["memories"] if memory["content"] == FACT)
    assert (fact["kept"], fact["why"]) == (False, "left out: no room for it in the budget for memories")


def test_the_latest_messages_are_not_recalled_again(server: Server, scope: Scope) -> None:
    ask(server, scope, FACT)
    found = recall(server, scope, QUESTION)
    (fact,) = [memory for memory in found["memories"] if memory["content"] == FACT]
    assert not fact["kept"]
    assert fact["why"].startswith("not repeated: it is among the latest messages")
    assert found["block"] == ""


@pytest.mark.parametrize(
    "query", ["", " \n", "x" * 100_000, "the of and", "🦊🦊", "'a' & !(b | <-> :*", "\ud800", "\x00", "记忆"]
)
def test_any_text_is_a_valid_query(server: Server, scope: Scope, query: str) -> None:
    ask(server, scope, FACT)
    assert recall(server, scope, query)["query"] == query


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "query"),
        ({"query": 7}, "query"),
        ({"query": "x", "budget": -1}, "budget"),
        ({"query": "x", "budget": "many"}, "budget"),
        ({"query": "x", "limit": 0}, "limit"),
        ({"query": "x", "limit": 1001}, "limit"),
        ({"query": "x", "limit": True}, "limit"),
    ],
)
def test_invalid_input_is_refused_in_openais_shape(
    server: Server, scope: Scope, fields: dict[str, Any], param: str
) -> None:
    error = recall(server, scope, status=400, **fields)["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert error["message"].endswith(".")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_body_that_is_not_an_object_is_refused(server: Server, scope: Scope, body: bytes) -> None:
    response = httpx.post(f"{server.base_url(*scope)}/recall", content=body, trust_env=False)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_numbers_in_the_url_are_validated_too(server: Server, scope: Scope) -> None:
    url = f"{server.base_url(*scope)}/recall"
    for query, param in (("", "query"), ("query=x&limit=all", "limit"), ("query=x&budget=-5", "budget")):
        response = httpx.get(f"{url}?{query}", trust_env=False)
        assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert httpx.get(f"{url}?query=%ff", trust_env=False).status_code == 400


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
def test_other_methods_are_not_forwarded_to_the_provider(
    server: Server, scope: Scope, provider: FakeProvider, method: str
) -> None:
    response = httpx.request(method, f"{server.base_url(*scope)}/recall", trust_env=False)
    assert response.status_code == 405
    assert response.json()["error"]["code"] == "method_not_allowed"
    assert provider.requests == []


def test_recall_finds_nothing_when_it_is_switched_off(server: Server, scope: Scope) -> None:
    ask(server, scope, FACT)
    url = f"{server.base_url(*scope)}/recall"
    response = httpx.post(url, json={"query": QUESTION}, headers={"X-Reservoir-Recall": "off"}, trust_env=False)
    assert response.headers["x-reservoir-memory"] == response.json()["memory"] == "off"
    assert response.json()["memories"] == []


def test_late_recall_is_degraded_as_in_a_request(start_beside: StartServer, scope: Scope) -> None:
    server = start_beside({"RESERVOIR_RECALL_DEADLINE_MS": "1"})
    response = httpx.post(f"{server.base_url(*scope)}/recall", json={"query": "long " * 5000}, trust_env=False)
    assert response.status_code == 200
    assert response.headers["x-reservoir-memory"] == response.json()["memory"] == "degraded"
    assert response.json()["memories"] == []


def test_the_partitions_of_evaluations_are_reserved(server: Server) -> None:
    error = recall(server, ("reservoir-evaluation-mine", "x"), QUESTION, status=400)["error"]
    assert error["param"] == "partition"
    assert json.dumps(error).count("reserved") == 1


def test_a_question_keeps_the_vector_of_its_recall_only_if_it_is_one_piece(server: Server, scope: Scope) -> None:
    short, long = "What is the password?", "我把酒窖的密码告诉了你。" * 30
    for question in (short, long):
        ask(server, scope, question)
    vectors = store.rows(
        server,
        """SELECT m.content, count(*) AS pieces FROM conversations_embedding e
           JOIN conversations_message m ON m.id = e.message_id WHERE m.content = ANY(%s) AND m.instance_id IN (
               SELECT i.id FROM conversations_instance i JOIN conversations_partition p ON p.id = i.partition_id
               WHERE p.name = %s AND i.name = %s)
           GROUP BY m.content""",
        [short, long],
        *scope,
    )
    pieces = {row["content"]: row["pieces"] for row in vectors}
    assert len(long) < 400  # characters: few, but many tokens
    assert pieces[short] == 1
    assert pieces[long] > 1
