"""Almost correct paths, headers and names work or are refused, never passed on silently."""

from __future__ import annotations

import httpx
import pytest

from tests.end_to_end import store
from tests.end_to_end.asking import Scope, chat, says
from tests.fake_provider.provider import FakeProvider
from tests.server import Server


@pytest.mark.parametrize("path", ["/chat/completions/", "//chat/completions", "/v1/chat/completions"])
def test_another_spelling_of_the_chat_route_has_memory(server: Server, scope: Scope, path: str) -> None:
    answer = httpx.post(f"{server.base_url(*scope)}{path}", json=says("hi"), timeout=300, trust_env=False)
    assert (answer.status_code, answer.headers["x-reservoir-memory"]) == (200, "on")
    assert len(store.messages(server, scope)) == 2


def test_every_answer_below_a_scope_says_what_memory_did(server: Server, scope: Scope, provider: FakeProvider) -> None:
    assert (
        httpx.get(f"{server.base_url(*scope)}/models", timeout=300, trust_env=False).headers["x-reservoir-memory"]
        == "off"
    )
    refused = httpx.post(f"{server.base_url(*scope)}/chat/completions", content=b"{", timeout=300, trust_env=False)
    assert (refused.status_code, refused.headers["x-reservoir-memory"]) == (400, "off")


def test_a_misspelt_header_is_refused_before_the_provider_is_asked(
    server: Server, scope: Scope, provider: FakeProvider
) -> None:
    before = len(provider.requests)
    answer = chat(server, scope, says("hi"), X_Reservoir_Recal="off")
    assert answer.status_code == 400
    assert "X-Reservoir-Recall" in answer.json()["error"]["message"]
    assert len(provider.requests) == before


def test_a_placeholder_left_in_braces_is_refused(server: Server) -> None:
    path = "/v1/partition/{partition}/instance/x/chat/completions"
    answer = httpx.post(f"{server.url}{path}", json=says("hi"), timeout=300, trust_env=False)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "partition")


@pytest.mark.parametrize("path", ["/health", "/healthz"])
def test_probes_of_other_platforms_find_their_path(server: Server, path: str) -> None:
    assert httpx.get(f"{server.url}{path}", timeout=300, trust_env=False).json()["status"] == "live"


@pytest.mark.parametrize(("path", "to"), [("/admin", "/admin/"), ("/v1", "/v1/docs"), ("/v1/", "/v1/docs")])
def test_incomplete_addresses_redirect(server: Server, path: str, to: str) -> None:
    answer = httpx.get(f"{server.url}{path}", timeout=300, trust_env=False)
    assert (answer.status_code, answer.headers["location"]) == (302, to)
