"""The memory as MCP tools, by the official client over HTTP and standard input."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

from access.rights import Right
from tests.end_to_end.asking import chat, says
from tests.end_to_end.conftest import StartServer
from tests.end_to_end.keys import make_key
from tests.end_to_end.store import messages, rows
from tests.fake_provider.provider import FakeProvider
from tests.faults.watching import eventually
from tests.server import PATIENT, ROOT, Server, clean_environment

Scope = tuple[str, str]
PLACE = "My bicycle is chained to the third lamp post behind the old opera house."
ASK = "Where is my bicycle chained?"


@asynccontextmanager
async def connected(server: Server, scope: Scope, key: str | None = None) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with httpx2.AsyncClient(headers=headers, timeout=300, trust_env=False) as http:
        transport = streamable_http_client(f"{server.base_url(*scope)}/mcp", http_client=http)
        async with Client(transport, read_timeout_seconds=300) as client:
            yield client


async def call(client: Client, name: str, **arguments: Any) -> Any:
    result = await client.call_tool(name, arguments)
    assert not result.is_error, result
    return json.loads(result.content[0].text)  # type: ignore[union-attr]


async def test_a_model_recalls_remembers_and_forgets(server: Server, provider: FakeProvider, scope: Scope) -> None:
    chat(server, scope, says(PLACE))
    async with connected(server, scope) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert sorted(tools) == ["forget", "latest", "recall", "remember"]
        assert all(len(tool.description or "") > 80 for tool in tools.values())
        found = await call(client, "recall", query=ASK)
        assert "third lamp post" in json.dumps([found["block"], found["latest"]])
        kept = await call(client, "remember", text="My cat Ada is allergic to salmon.")
        chat(server, scope, says("What is my cat allergic to?"))
        assert "salmon" in json.dumps(provider.last.messages)
        latest = await call(client, "latest", count=3)
        assert latest["messages"][0]["content"].startswith("My cat Ada")
        counted = await call(client, "forget", message_ids=[kept["id"]])
        assert (counted["dry_run"], counted["messages"]) == (True, 1)
        assert len(messages(server, scope)) == 5
        assert (await call(client, "forget", message_ids=[kept["id"]], dry_run=False))["messages"] == 1
    stored = messages(server, scope)
    assert len(stored) == 4
    assert all("salmon" not in m["content"] or m["role"] != "user" for m in stored)


async def test_what_a_tool_told_is_marked(server: Server, scope: Scope) -> None:
    async with connected(server, scope) as client:
        await call(client, "remember", text="Tea at five.")
    (message,) = messages(server, scope)
    assert (message["role"], message["content"]) == ("user", "Tea at five.")
    assert json.loads(message["payload"])["told_by"] == "mcp"


async def test_wrong_arguments_are_told_to_the_model(server: Server, scope: Scope) -> None:
    async with connected(server, scope) as client:
        wrong: list[tuple[str, Any]] = [("recall", {}), ("recall", {"query": ""}), ("latest", {"count": 10**9})]
        for name, arguments in [*wrong, ("forget", {})]:
            result = await client.call_tool(name, arguments)
            assert result.is_error
            assert result.content
        other = await client.call_tool("forget", {"message_ids": [2**62], "dry_run": False})
        assert not other.is_error  # nothing of another scope is there to be forgotten


async def test_memory_does_not_cross_a_scope(server: Server, scope: Scope) -> None:
    chat(server, scope, says(PLACE))
    stored = messages(server, scope)
    async with connected(server, (scope[0], "another")) as client:
        assert (await call(client, "recall", query=ASK))["memories"] == []
        await call(client, "forget", message_ids=[m["id"] for m in stored], dry_run=False)
    assert [m["id"] for m in messages(server, scope)] == [m["id"] for m in stored]


def test_the_guard_refuses_foreign_hosts_and_origins(server: Server, scope: Scope) -> None:
    url = f"{server.base_url(*scope)}/mcp"
    for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
        answer = httpx.post(url, json={}, headers=headers, timeout=300, trust_env=False)
        assert answer.status_code == 403


async def test_read_only_servers_have_no_tools_that_change_anything(start_beside: StartServer, scope: Scope) -> None:
    server = start_beside({"RESERVOIR_MCP_READ_ONLY": "true"})
    async with connected(server, scope) as client:
        assert sorted(tool.name for tool in (await client.list_tools()).tools) == ["latest", "recall"]


async def test_the_tools_work_on_standard_input(server: Server, scope: Scope) -> None:
    chat(server, scope, says(PLACE))
    command = ["manage.py", "mcp", "--partition", scope[0], "--instance", scope[1]]
    environment = clean_environment() | server.settings | PATIENT
    parameters = StdioServerParameters(command=sys.executable, args=command, env=environment, cwd=ROOT)
    async with Client(stdio_client(parameters), read_timeout_seconds=300) as client:
        assert "third lamp post" in json.dumps(await call(client, "recall", query=ASK))


@pytest.mark.parametrize("names", [("", "b"), ("a", "{instance}")])
def test_wrong_names_are_refused_on_standard_input(server: Server, names: Scope) -> None:
    command = [sys.executable, "manage.py", "mcp", "--partition", names[0], "--instance", names[1]]
    done = subprocess.run(
        command, cwd=ROOT, env=clean_environment() | server.settings, capture_output=True, check=False
    )
    assert done.returncode == 1
    assert b"in the URL" in done.stderr


RIGHTS: list[tuple[str, dict[str, Any], Right]] = [
    ("recall", {"query": ASK}, Right.RECALL),
    ("latest", {"count": 1}, Right.READ),
    ("remember", {"text": PLACE}, Right.COMPLETE),
    ("forget", {"message_ids": [2**62]}, Right.FORGET),
    ("forget", {"message_ids": [2**62], "dry_run": False}, Right.FORGET),
]


async def test_each_tool_takes_its_right_alone(start_server: StartServer, scope: Scope) -> None:
    server = start_server()
    keys = {right: make_key(server, [scope[0]], rights=[right]) for right in Right}
    for right, key in keys.items():
        async with connected(server, scope, key) as client:
            for name, arguments, needed in RIGHTS:
                result = await client.call_tool(name, arguments)
                assert result.is_error == (right != needed), (right, name)
                if right != needed:
                    assert f"lacks the right to {needed}" in result.content[0].text  # type: ignore[union-attr]
    assert len(messages(server, scope)) == 1  # which the one key that may remember told

    def found(action: str, key: str) -> bool:
        query = "SELECT 1 FROM access_auditrecord WHERE action = %s AND key_id = %s"
        return bool(rows(server, query, action, key.split("_")[2]))

    for action, right in (("forgotten", Right.FORGET), ("denied", Right.READ)):
        eventually(partial(found, action, keys[right]))


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT"])
def test_nothing_is_held_open_for_a_client_that_only_listens(server: Server, scope: Scope, method: str) -> None:
    accept = {"Accept": "text/event-stream"}
    answer = httpx.request(method, f"{server.base_url(*scope)}/mcp", headers=accept, trust_env=False, timeout=300)
    assert answer.status_code == 405
