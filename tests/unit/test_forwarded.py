"""X-Forwarded-* headers are believed if a trusted proxy sends them, and reach nothing behind the guard."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reservoir_site.forwarded import received
from tests.unit.asgi import http_scope

TRUSTED = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]
TOLD = {"x-forwarded-for": "192.0.2.7", "x-forwarded-proto": "https", "x-forwarded-host": "app.example.com"}


def scope_from(client: str | None, headers: dict[str, str]) -> dict[str, Any]:
    return http_scope(headers=headers) | {"client": (client, 50000) if client else None}


def told(scope: Any) -> tuple[str, str, str]:
    """The client's address, the scheme and the host of a scope."""
    hosts = [value.decode() for name, value in scope["headers"] if name == b"host"]
    return (scope["client"] or ("",))[0], scope["scheme"], ",".join(hosts)


@pytest.mark.parametrize("proxy", ["10.1.2.3", "fd00::1", "::ffff:10.1.2.3"])
def test_a_trusted_proxy_is_believed(proxy: str) -> None:
    assert told(received(scope_from(proxy, TOLD), TRUSTED)) == ("192.0.2.7", "https", "app.example.com")


@pytest.mark.parametrize("client", ["192.0.2.1", "11.0.0.1", "fe80::1", None])
def test_nobody_else_is_believed(client: str | None) -> None:
    scope = received(scope_from(client, TOLD), TRUSTED)
    assert told(scope) == (client or "", "http", "localhost")
    assert not [name for name, _ in scope["headers"] if name.startswith(b"x-forwarded-")]


def test_without_trusted_proxies_not_even_this_machine_is_believed() -> None:
    assert told(received(scope_from("127.0.0.1", TOLD), [])) == ("127.0.0.1", "http", "localhost")


@pytest.mark.parametrize(
    ("hops", "client"),
    [
        ("192.0.2.7, 10.0.0.1", "192.0.2.7"),
        ("6.6.6.6, 192.0.2.7, 10.0.0.1", "192.0.2.7"),  # the client made up the first
        ("10.9.9.9, 10.0.0.1", "10.9.9.9"),  # inside the network
        ("nonsense, 10.0.0.1", "10.0.0.1"),
        ("nonsense", "10.1.2.3"),
        ("192.0.2.7:4711", "192.0.2.7"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
    ],
)
def test_the_client_is_the_nearest_hop_that_is_no_trusted_proxy(hops: str, client: str) -> None:
    assert told(received(scope_from("10.1.2.3", {"x-forwarded-for": hops}), TRUSTED))[0] == client


def test_the_proxy_s_own_word_is_the_last() -> None:
    headers = {"x-forwarded-proto": "https, http", "x-forwarded-host": "evil.example, app.example.com"}
    assert told(received(scope_from("10.1.2.3", headers), TRUSTED))[1:] == ("http", "app.example.com")


def test_a_request_without_such_headers_is_left_as_it_is() -> None:
    scope = scope_from("10.1.2.3", {})
    assert received(scope, TRUSTED) is scope


@given(st.sampled_from(["10.1.2.3", "192.0.2.1"]), st.dictionaries(st.sampled_from(list(TOLD)), st.text("a1.:[], ")))
def test_no_value_is_an_error(client: str, headers: dict[str, str]) -> None:
    scope = received(scope_from(client, headers), TRUSTED)
    assert scope["scheme"] == "http"
    assert [name for name, _ in scope["headers"]].count(b"host") == 1
