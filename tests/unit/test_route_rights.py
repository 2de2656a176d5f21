"""Every route of the API declares the right that it needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.urls import URLPattern, URLResolver
from ninja.operation import PathView

from access.rights import Right
from proxy.authorization import Needs
from proxy.routes import PREFIXES
from reservoir_site.urls import urlpatterns

NOT_THE_APIS = {"", "live", "health", "healthz", "ready", "admin", "v1", "v1/"}
"""Probes, redirects and the front page: they show nothing stored."""


def routes(patterns: list[Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Every route of the site but the admin's, which has users: its path and its view."""
    for pattern in patterns:
        path = before + str(pattern.pattern)
        if isinstance(pattern, URLResolver) and path != "admin/":
            yield from routes(pattern.url_patterns, path)
        elif isinstance(pattern, URLPattern):
            yield path, pattern.callback


def undeclared(view: Any) -> list[str]:
    """What of a view declares no right."""
    operations = getattr(getattr(view, "__self__", None) or getattr(view, "path_view", None), "operations", None)
    if operations is None:
        operations = _operations(view)
    if operations is None:
        return [] if getattr(view, "needs", None) else ["view"]
    return [
        "/".join(operation.methods)
        for operation in operations
        if not any(isinstance(each, Needs) for each in operation.auth_callbacks)
    ]


def _operations(view: Any) -> list[Any] | None:
    """The operations of ninja's view, which is a closure over them."""
    cells = [cell.cell_contents for cell in getattr(view, "__closure__", None) or ()]
    found = [cell for cell in cells if isinstance(cell, PathView)]
    return found[0].operations if found else None


def test_every_route_declares_the_right_it_needs() -> None:
    missing = {
        path: wrong
        for path, view in routes(list(urlpatterns))
        if path not in NOT_THE_APIS and (wrong := undeclared(view))
    }
    assert missing == {}


def test_the_walk_finds_the_routes_and_their_rights() -> None:
    found = dict(routes(list(urlpatterns)))
    assert len(found) > 15
    assert any("chat/completions" in path for path in found)
    rights = {
        each.right
        for view in found.values()
        for operation in _operations(view) or ()
        for each in operation.auth_callbacks
        if isinstance(each, Needs) and each.right
    }
    assert rights == set(Right) - {Right.MANAGE, Right.RELAY}  # asked for by /metrics, and inside a route


def test_a_route_without_a_right_would_be_found() -> None:
    assert undeclared(lambda request: None) == ["view"]


def test_no_route_of_the_api_escapes_the_gate() -> None:
    outside = [path for path, _ in routes(list(urlpatterns)) if not f"/{path}".startswith(PREFIXES)]
    assert set(outside) <= NOT_THE_APIS | {"metrics"}  # the guard asks there for those who are not on this machine
