"""Attempts of an app to learn of a scope that its key does not reach: every form of route, name, header and key."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from tests.end_to_end.asking import says

OTHERS = ("acme", "alice")
"""A scope that the keys of confused apps may reach."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request, without its key."""

    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None


def attempts(scope: tuple[str, str], routes: Iterable[tuple[str, str]], messages: list[int]) -> Iterator[Attempt]:
    """`routes` lead to the scope, whose messages have these ids; none of the attempts changes anything for good."""
    for method, path in routes:
        yield Attempt(method, path, body=says("Where does the cat sleep?") if method == "POST" else None)
    yield from _spelled_otherwise(scope)
    yield from _said_twice(scope)
    yield from _in_headers(scope)
    yield from _by_id(messages)
    yield from _by_tools(scope, messages)


def _spelled_otherwise(scope: tuple[str, str]) -> Iterator[Attempt]:
    """Names that a careless server takes for the scope's, and paths that lead out of one's own."""
    partition, instance = scope
    names = [partition.upper(), f"{partition}%20", f"%20{partition}", f"{partition}%00", f"{partition}%2F"]
    names += [f"./{partition}", "".join(f"%{ord(c):02x}" for c in partition), f"{partition}.", "*"]
    names += [quote(quote(f"{partition}/"), safe="")]
    for name in names:
        for rest in ("recall?query=cat", "command/view/9", "command/search/9?term=cat", "mcp"):
            yield Attempt("GET", f"/v1/partition/{name}/instance/{instance}/{rest}")
        yield Attempt("GET", f"/v1/memory/messages?partition={name}")
    own = "/v1/partition/{}/instance/{}".format(*OTHERS)
    there = f"partition/{partition}/instance/{instance}/command/view/9"
    for step in ("../../../../", "%2e%2e/" * 4, "..%2f" * 4, "..%5C" * 4, "//", ";/"):
        yield Attempt("GET", f"{own}/{step}{there}")
    for between in ("%2F", ",", "%0A", "|"):
        yield Attempt("GET", f"/v1/partition/{OTHERS[0]}{between}{partition}/instance/{instance}/command/view/9")


def _said_twice(scope: tuple[str, str]) -> Iterator[Attempt]:
    """Two scopes in one request: the one that is checked might not be the one that is read."""
    partition, instance = scope
    mine, theirs = f"partition={OTHERS[0]}", f"partition={partition}"
    for what in ("messages", "export", "instances", "nearest"):
        text = "&text=cat" if what == "nearest" else ""
        orders = (f"{mine}&{theirs}", f"{theirs}&{mine}", f"{theirs}&{mine}&instance={instance}")
        for both in (*orders, f"{mine}&Partition={partition}"):
            yield Attempt("GET", f"/v1/memory/{what}?{both}{text}")
    own = "/v1/partition/{}/instance/{}".format(*OTHERS)
    for rest in ("recall?query=cat", "command/view/9?count=9", "command/search/9?term=cat"):
        yield Attempt("GET", f"{own}/{rest}&{theirs}&instance={instance}")
    asked = {"query": "cat", "partition": partition, "instance": instance, "scope": list(scope)}
    yield Attempt("POST", f"{own}/recall", body=asked)
    yield Attempt("POST", f"{own}/chat/completions", body=says("cat") | asked | {"metadata": asked | {"scope": ""}})


def _in_headers(scope: tuple[str, str]) -> Iterator[Attempt]:
    """A path or a scope in headers that some servers obey."""
    partition, instance = scope
    path = f"/v1/partition/{partition}/instance/{instance}/command/view/9"
    own = "/v1/partition/{}/instance/{}/command/view/9".format(*OTHERS)
    for name in ("X-Original-URL", "X-Rewrite-URL", "X-Forwarded-Uri", "X-Forwarded-Prefix", "Referer"):
        yield Attempt("GET", own, {name: path})
    yield Attempt("GET", own, {"X-Partition": partition, "X-Instance": instance, "X-Forwarded-For": "127.0.0.1"})
    for method in ("PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"):
        yield Attempt("POST", path, {"X-HTTP-Method-Override": method})
        if method != "DELETE":
            yield Attempt(method, path)


def _by_id(messages: list[int]) -> Iterator[Attempt]:
    """Ids and cursors made up from numbers that can be guessed."""
    for pk in messages:
        yield Attempt("GET", f"/v1/memory/messages/{pk}")
        yield Attempt("DELETE", f"/v1/memory/messages/{pk}?dry_run=true")
        yield Attempt("DELETE", f"/v1/memory/messages?id={pk}&dry_run=true")
        for cursor in (f'["2100-01-01T00:00:00+00:00", {pk + 1}]', f"[{pk + 1}]", json.dumps([None, pk]), str(pk + 1)):
            yield Attempt("GET", f"/v1/memory/messages?cursor={quote(cursor)}")
    for cursor in ('["beta"]', '["bet"]', "beta", '["", 0]'):
        yield Attempt("GET", f"/v1/memory/partitions?cursor={quote(cursor)}")
        yield Attempt("GET", f"/v1/memory/instances?partition={OTHERS[0]}&cursor={quote(cursor)}")


def _by_tools(scope: tuple[str, str], messages: list[int]) -> Iterator[Attempt]:
    """MCP's tools, at one's own base URL, with the other's ids and names."""
    own = "/v1/partition/{}/instance/{}/mcp".format(*OTHERS)
    accept = {"Accept": "application/json, text/event-stream"}
    where = {"partition": scope[0], "instance": scope[1]}
    calls: list[tuple[str, dict[str, Any]]] = [
        ("recall", {"query": "cat", **where}),
        ("latest", {"count": 9, **where}),
        ("forget", {"message_ids": messages, "dry_run": True}),
    ]
    for name, arguments in calls:
        params = {"name": name, "arguments": arguments}
        yield Attempt("POST", own, accept, {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
