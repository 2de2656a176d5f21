"""Two servers on one database, one of which keeps a scope in memory: it finds what the other stores, and nothing that
the other forgets, also when one of them is killed."""

from __future__ import annotations

import re

import httpx
import psycopg
import pytest

from tests.fake_provider.provider import FakeProvider
from tests.faults.app import App
from tests.faults.conftest import StartServer
from tests.faults.stored import address, rows
from tests.faults.watching import eventually
from tests.server import Server

SETTINGS = {"RESERVOIR_LOG_LEVEL": "DEBUG"}
KEPT = re.compile(r"instance \d+ is kept in memory")
WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'conversations_auditentry'::regclass"


def recalled(server: Server, scope: tuple[str, str], query: str) -> list[str]:
    answer = httpx.post(f"{server.base_url(*scope)}/recall", json={"query": query}, trust_env=False, timeout=300)
    return [memory["content"] for memory in answer.raise_for_status().json()["memories"]]


def forget(server: Server, scope: tuple[str, str], text: str) -> None:
    where = {"partition": scope[0], "instance": scope[1], "search": text}
    gone = httpx.delete(f"{server.url}/v1/memory/messages", params=where, trust_env=False, timeout=300)
    assert gone.raise_for_status().json()["messages"] >= 1


def keep(server: Server, scope: tuple[str, str], times: int) -> None:
    """Ask until the server has read the scope into memory `times` times."""

    def kept() -> bool:
        recalled(server, scope, "Where is the key?")
        return len(KEPT.findall(server.log)) >= times

    eventually(kept)


def test_a_server_that_keeps_a_scope_follows_what_others_store_and_forget(
    start_server: StartServer, provider: FakeProvider
) -> None:
    one = start_server(SETTINGS)
    two = start_server(SETTINGS, home=one.home)
    first, second = App(one), App(two)
    scope = second.scope = first.scope
    first.ask("The key is in the shed")
    keep(one, scope, 1)

    second.ask("The key is under the mat")
    assert {"The key is in the shed", "The key is under the mat"} <= {*recalled(one, scope, "Where is the key?")}

    forget(two, scope, "mat")
    assert "The key is under the mat" not in recalled(one, scope, "Where is the key?")
    assert "The key is in the shed" in recalled(one, scope, "Where is the key?")

    keep(one, scope, 2)
    second.ask("The key is in the car")
    with psycopg.connect(address(one.home)) as blocker, blocker.cursor() as cursor:
        cursor.execute("LOCK TABLE conversations_auditentry IN EXCLUSIVE MODE")  # all is removed by then, uncommitted
        where = {"partition": scope[0], "instance": scope[1], "search": "shed"}
        with pytest.raises(httpx.TimeoutException):
            httpx.delete(f"{two.url}/v1/memory/messages", params=where, trust_env=False, timeout=3)
        eventually(lambda: rows(one.home, WAITING) == [(1,)])
        found = recalled(one, scope, "Where is the key?")
        two.kill()
        assert {"The key is in the shed", "The key is in the car"} <= {*found}
    assert "The key is in the shed" in recalled(one, scope, "Where is the key?"), "nothing was committed"

    two.start()
    forget(two, scope, "shed")
    assert "The key is in the shed" not in recalled(one, scope, "Where is the key?")
    keep(one, scope, 3)
    one.kill()
    one.start()
    keep(one, scope, 4)
    assert "The key is in the shed" not in recalled(one, scope, "Where is the key?")
    assert "The key is in the car" in recalled(one, scope, "Where is the key?")
