"""The memory API on the real server: reading and forgetting."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from openai import OpenAI

from proxy import memory_api
from tests.fake_provider.provider import FakeProvider
from tests.server import Server

Scope = tuple[str, str]


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, trust_env=False, timeout=300) as client:
        yield client


@pytest.fixture
def trace_id(client: OpenAI) -> str:
    """A scope with one exchange: a question and its answer."""
    return ask(client, "My cat is called Zephyrine.")


def ask(client: OpenAI, text: str) -> str:
    raw = client.chat.completions.with_raw_response.create(model="gpt-4", messages=[{"role": "user", "content": text}])
    assert raw.headers["x-reservoir-memory"] == "on"
    return str(raw.headers["x-reservoir-trace-id"])


def where(scope: Scope) -> dict[str, str]:
    return {"partition": scope[0], "instance": scope[1]}


def data(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    return response.json()


def error(response: httpx.Response) -> tuple[int, str]:
    told = response.json()["error"]
    assert told.keys() == {"message", "type", "param", "code"}
    return response.status_code, told["code"]


def test_a_message_is_found_read_and_forgotten(http: httpx.Client, scope: Scope, trace_id: str) -> None:
    page = data(http.get("/v1/memory/messages", params=where(scope) | {"search": "zephyrine", "role": "user"}))
    memory_api.MessagePage.model_validate(page)
    (found,) = page["data"]
    assert (found["content"], found["trace_id"]) == ("My cat is called Zephyrine.", trace_id)
    address = f"/v1/memory/messages/{found['id']}"
    whole = data(http.get(address))
    memory_api.MessageWhole.model_validate(whole)
    assert whole["payload"] == {"role": "user", "content": "My cat is called Zephyrine."}
    gone = data(http.delete(address, params={"dry_run": True}))
    memory_api.Gone.model_validate(gone)
    assert (gone["dry_run"], gone["messages"]) == (True, 1)
    assert data(http.delete(address))["messages"] == 1
    assert error(http.get(address)) == (404, "not_found")
    assert data(http.delete(address))["messages"] == 0


def test_an_exchange_explains_its_memories(http: httpx.Client, scope: Scope, client: OpenAI, trace_id: str) -> None:
    later = ask(client, "What is my cat called?")
    told = data(http.get(f"/v1/memory/exchanges/{later}"))
    memory_api.ExchangeWhole.model_validate(told)
    assert told["request"][0]["content"] == "What is my cat called?"
    shown = told["ledger"]["shown"]
    assert shown
    assert any("Zephyrine" in text for text in told["ledger"]["injected"])
    data(http.delete("/v1/memory/messages", params=where(scope) | {"search": "zephyrine"}))
    forgotten = data(http.get(f"/v1/memory/exchanges/{later}"))
    assert "Zephyrine" not in json.dumps(forgotten["ledger"])
    assert error(http.get("/v1/memory/exchanges/6a1f3a5e-6f0e-4c56-9a38-0d5c3f0f7c11")) == (404, "not_found")


def test_pages_have_no_gaps_and_no_repetitions(http: httpx.Client, scope: Scope, client: OpenAI) -> None:
    for number in range(5):
        ask(client, f"number {number}")
    seen: list[str] = []
    cursor: str | None = None
    for _ in range(5):
        page = data(
            http.get("/v1/memory/messages", params=where(scope) | {"limit": 3} | ({"cursor": cursor} if cursor else {}))
        )
        seen += [row["content"] for row in page["data"] if row["role"] == "user"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert cursor is None
    assert seen == [f"number {number}" for number in (4, 3, 2, 1, 0)]
    assert error(http.get("/v1/memory/messages", params={"cursor": "nonsense"})) == (400, "invalid_cursor")


def test_partitions_and_instances_are_listed_and_forgotten_as_wholes(
    http: httpx.Client, server: Server, provider: FakeProvider, scope: Scope, trace_id: str
) -> None:
    other = (scope[0], "team/ü")
    with OpenAI(base_url=server.base_url(*other), api_key="x", max_retries=0) as client:
        ask(client, "hello")
    names, cursor = [], ""
    while cursor is not None:
        page = data(http.get("/v1/memory/partitions", params={"limit": 1000} | ({"cursor": cursor} if cursor else {})))
        memory_api.PartitionPage.model_validate(page)
        names += [row["name"] for row in page["data"] if row["instance_count"]]
        cursor = page["next_cursor"]
    assert scope[0] in names
    listed = data(http.get("/v1/memory/instances", params={"partition": scope[0], "limit": 1}))
    memory_api.InstancePage.model_validate(listed)
    rest = data(http.get("/v1/memory/instances", params={"partition": scope[0], "cursor": listed["next_cursor"]}))
    assert [row["name"] for row in (*listed["data"], *rest["data"])] == ["my-application", "team/ü"]
    assert data(http.delete("/v1/memory/instances", params=where(other)))["instances"] == 1
    gone = data(http.delete("/v1/memory/partitions", params={"partition": scope[0]}))
    assert (gone["partitions"], gone["instances"], gone["messages"]) == (1, 1, 2)
    assert data(http.get("/v1/memory/messages", params={"partition": scope[0]}))["data"] == []


def test_forgetting_a_span_of_time_deletes_nothing_else(http: httpx.Client, scope: Scope, client: OpenAI) -> None:
    ask(client, "early")
    (answer, question) = data(http.get("/v1/memory/messages", params=where(scope)))["data"]
    ask(client, "late")
    span = where(scope) | {"since": question["created"], "before": answer["created"]}
    assert data(http.delete("/v1/memory/messages", params=span))["messages"] == 1
    left = [row["content"] for row in data(http.get("/v1/memory/messages", params=where(scope)))["data"]]
    assert "early" not in left
    assert len(left) == 3


def test_an_export_streams_json_lines(http: httpx.Client, scope: Scope, trace_id: str) -> None:
    response = http.get("/v1/memory/export", params=where(scope) | {"embeddings": True})
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert response.headers["content-type"] == "application/jsonl"
    assert [line["role"] for line in lines] == ["user", "assistant"]
    assert {line["trace_id"] for line in lines} == {trace_id}
    empty = http.get("/v1/memory/export", params={"partition": "unused"})
    assert (empty.status_code, empty.text) == (200, "")


def test_abandoned_exports_free_their_slots(http: httpx.Client, scope: Scope, trace_id: str) -> None:
    for _ in range(6):
        with http.stream("GET", "/v1/memory/export", params=where(scope)) as response:
            assert response.status_code == 200
    deadline = time.monotonic() + 300
    while http.get("/v1/memory/export", params=where(scope)).status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_search_by_meaning_returns_the_nearest_messages(http: httpx.Client, scope: Scope, trace_id: str) -> None:
    deadline = time.monotonic() + 300
    while not (rows := data(http.get("/v1/memory/nearest", params=where(scope) | {"text": "name of a pet"}))["data"]):
        assert time.monotonic() < deadline, "no vector was made"
        time.sleep(0.1)
    assert all(-1 <= row["similarity"] <= 1 for row in rows)


def test_the_original_commands_answer_as_before(
    http: httpx.Client, server: Server, scope: Scope, trace_id: str
) -> None:
    base = "/v1/partition/{}/instance/{}/command".format(*scope)
    viewed = data(http.get(f"{base}/view/1"))
    assert [row.keys() for row in viewed] == [{"role", "content"}]
    assert viewed[0]["role"] == "assistant"
    assert data(http.get(f"{base}/view/5"))[0] == {"role": "user", "content": "My cat is called Zephyrine."}
    found = data(http.get(f"{base}/search/5", params={"term": "cats"}))
    assert {"role": "user", "content": "My cat is called Zephyrine."} in found
    near = data(http.get(f"{base}/search/5", params={"term": "my pet", "semantic": "true"}))
    assert {"role": "user", "content": "My cat is called Zephyrine."} in near
    other = f"/v1/partition/{scope[0]}/instance/{quote('my-application/x', safe='')}/command"
    assert data(http.get(f"{other}/view/5")) == []
    for wrong in ("view/0", "view/many", "view/1001", "search/5", "search/x?term=a"):
        assert http.get(f"{base}/{wrong}").status_code == 400, wrong


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("DELETE", "messages", (400, "invalid_selection")),
        ("DELETE", "messages?partition=p", (400, "invalid_selection")),
        ("DELETE", "messages?instance=i&role=user", (400, "invalid_selection")),
        ("DELETE", "partitions", (400, "invalid_parameter")),
        ("DELETE", "partitions?partition=", (400, "invalid_parameter")),
        ("DELETE", "instances?partition=p", (400, "invalid_parameter")),
        ("DELETE", "messages?larger_than=9999999999", (400, "invalid_parameter")),
        ("GET", "messages?limit=0", (400, "invalid_parameter")),
        ("GET", "messages?partition=%00", (400, "invalid_parameter")),
        ("GET", "messages?role=%00", (400, "invalid_parameter")),
        ("GET", "export?instance=%00", (400, "invalid_parameter")),
        ("GET", "messages?instance=i", (400, "invalid_selection")),
        ("GET", "nearest?text=bees&instance=i", (400, "invalid_selection")),
        ("GET", "export?instance=i", (400, "invalid_selection")),
        ("DELETE", "messages?instance=i&role=user", (400, "invalid_selection")),
        ("DELETE", "messages?partition=p&role=tool&dryrun=true", (400, "unknown_parameter")),
        ("DELETE", "messages?partition=p&role=tool&instnce=i", (400, "unknown_parameter")),
        ("DELETE", "messages/1?dryrun=true", (400, "unknown_parameter")),
        ("DELETE", "partitions?partition=p&dryrun=true", (400, "unknown_parameter")),
        ("GET", "messages?bogus=1", (400, "unknown_parameter")),
        ("GET", "messages/1?bogus=1", (400, "unknown_parameter")),
        ("GET", "messages?since=soon", (400, "invalid_parameter")),
        ("GET", "messages/x", (404, "not_found")),
        ("POST", "messages", (405, "method_not_allowed")),
        ("GET", "nothing", (404, "not_found")),
    ],
)
def test_refusals_have_openais_shape(http: httpx.Client, method: str, path: str, expected: tuple[int, str]) -> None:
    response = http.request(method, f"/v1/memory/{path}")
    assert error(response) == expected
    assert ("allow" in response.headers) == (response.status_code == 405)


def test_pages_of_other_origins_can_neither_read_nor_forget(http: httpx.Client, scope: Scope, trace_id: str) -> None:
    foreign = {"origin": "https://evil.example"}
    for method in ("GET", "DELETE"):
        response = http.request(method, "/v1/memory/messages", params=where(scope) | {"role": "user"}, headers=foreign)
        assert error(response) == (403, "origin_not_allowed")
    assert len(data(http.get("/v1/memory/messages", params=where(scope)))["data"]) == 2


def test_the_documentation_needs_nothing_from_the_internet(http: httpx.Client) -> None:
    page = http.get("/v1/docs")
    assert page.status_code == 200
    assert "://" not in page.text.replace("http://www.w3.org", "")
    assets = [part.split('"')[0] for part in page.text.split("/static/")[1:]]
    assert assets
    for asset in assets:
        assert http.get(f"/static/{asset}").status_code == 200
    schema = data(http.get("/v1/openapi.json"))
    documented = {path for path in schema["paths"] if path.startswith("/v1/memory/")}
    assert len(documented) == 7
    operations = [operation for path in documented for operation in schema["paths"][path].values()]
    assert all(operation["description"] for operation in operations)
