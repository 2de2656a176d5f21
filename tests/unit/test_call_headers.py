"""Whose credential goes to a provider: the one that the access key adds, or the app's own."""

from __future__ import annotations

from contextlib import AsyncExitStack
from io import BytesIO

from proxy.admission.caller import Caller
from proxy.call import Call
from proxy.providers.registry import Provider
from proxy.upstream import Headers

OPENAI = Provider("openai", "http://127.0.0.1:9/v1")
MISTRAL = Provider("mistral", "http://127.0.0.1:9/v1", key="sk-server")
OWN: Headers = [(b"Authorization", b"Bearer sk-own"), (b"x-api-key", b"sk-own"), (b"x-note", b"kept")]


def call(**credentials: str) -> Call:
    return Call.of(
        "POST",
        partition="shop",
        instance="alice",
        headers=OWN,
        query="",
        body=BytesIO(),
        budget=0,
        closing=AsyncExitStack(),
        caller=Caller(key_id="id", credentials=credentials),
    )


def test_the_keys_credential_replaces_the_apps_own_at_its_provider_alone() -> None:
    one = call(openai="sk-team")
    assert (one.headers_for(OPENAI), one.key_for(OPENAI)) == ([(b"x-note", b"kept")], "sk-team")
    assert (one.headers_for(MISTRAL), one.key_for(MISTRAL)) == (OWN, "sk-server")


def test_without_a_credential_the_apps_own_travels() -> None:
    assert (call().headers_for(OPENAI), call().key_for(OPENAI)) == (OWN, None)
