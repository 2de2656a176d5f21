"""The page of an exchange, whichever API it came through: what was sent, what the provider got, how to repeat it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from html import unescape
from typing import Any

import httpx
import pytest

from tests.end_to_end.store import exchanges
from tests.fake_provider import messages, responses
from tests.fake_provider.provider import FakeProvider
from tests.login import logged_in
from tests.server import Server

Scope = tuple[str, str]
Json = dict[str, Any]
PLACE = "My bicycle is chained to the third lamp post behind the old opera house."
ASK = "Where is my bicycle chained?"
WEATHER = '{"city": "Paris"}'
TOLD = {"role": "assistant", "content": "Hi."}


@pytest.fixture(scope="module")
def admin(session_server: Server) -> Iterator[httpx.Client]:
    with logged_in(session_server.url, session_server.home) as client:
        yield client


def ask(server: Server, scope: Scope, path: str, body: str | Json) -> httpx.Response:
    content = body if isinstance(body, str) else json.dumps(body)
    headers = {"Content-Type": "application/json", "Authorization": "Bearer sk-1"}
    answer = httpx.post(
        f"{server.base_url(*scope)}/{path}", content=content, headers=headers, timeout=300, trust_env=False
    )
    assert answer.status_code == 200, answer.text
    return answer


class Page:
    """The page of a scope's latest exchange."""

    def __init__(self, admin: httpx.Client, server: Server, scope: Scope) -> None:
        latest = exchanges(server, scope)[-1]
        self.html = admin.get(f"/admin/conversations/exchange/{latest['id']}/change/").text
        self.text = unescape(self.html)
        self.sent, self.got = (
            json.loads(unescape(shown)) for shown in re.findall(r"as JSON</summary><pre>(.*?)</pre>", self.html, re.S)
        )

    @property
    def again(self) -> str:
        """What is sent by "Ask again"."""
        found = re.search(r'<script id="again-body" type="application/json">(.*?)</script>', self.html, re.S)
        assert found
        return str(json.loads(found[1]))

    @property
    def curl(self) -> list[str]:
        found = re.search(r'<pre id="curl">(.*?)</pre>', self.html, re.S)
        return shlex.split(unescape(found[1]).replace("\\\n", " ")) if found else []


TEXT = '{"model" : "gpt-4o","instructions":"Be brief.", "input" :"Where is my b\\u0069cycle chained?", "top_p":0.50}'
ITEMS: Json = {
    "model": "gpt-4o",
    "instructions": "Be brief.",
    "input": [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "input_text", "text": "Hello."}]},
        {"type": "message", "id": "msg_1", "role": "assistant", "content": [{"type": "output_text", "text": "Hi."}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
        {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "get_weather", "arguments": WEATHER},
        {"type": "function_call_output", "call_id": "call_1", "output": "Sunny."},
        {"role": "user", "content": ASK},
    ],
}
BLOCKS: Json = {
    "model": "claude-x",
    "max_tokens": 50,
    "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "get_weather", "input": {"a": 1}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "Cloudy."}]},
        TOLD,
        {"role": "user", "content": [{"type": "text", "text": ASK}]},
    ],
}
CHAT: Json = {
    "model": "gpt-4o",
    "messages": [{"role": "system", "content": "Be brief."}, TOLD, {"role": "user", "content": ASK}],
}


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("chat/completions", json.dumps(CHAT), "Chat Completions"),
        ("responses", TEXT, "Responses"),
        ("responses", json.dumps(ITEMS), "Responses"),
        ("messages", json.dumps(BLOCKS), "Anthropic's Messages"),
    ],
)
def test_a_request_is_shown_and_repeated_as_it_was_sent(
    admin: httpx.Client, server: Server, provider: FakeProvider, scope: Scope, path: str, body: str, named: str
) -> None:
    ask(server, scope, "chat/completions", {"model": "gpt-4", "messages": [{"role": "user", "content": PLACE}]})
    ask(server, scope, path, body)
    page = Page(admin, server, scope)
    assert f"by {named}" in page.text
    assert page.again == body
    assert page.sent == json.loads(body)
    assert "third lamp post" in json.dumps(provider.last.json)
    assert page.got == provider.last.json
    assert re.search(r'<article class="turn system">.*?Be brief\.', page.html, re.S)
    assert "The added text is shown as" not in page.text

    url, *words = page.curl[1:]
    assert url == f"{server.base_url(*scope)}/{path}"
    assert words[words.index("-d") + 1] == body
    key = "x-api-key: $" if path == "messages" else "Authorization: Bearer $"
    assert any(word.startswith(key) for word in words)
    assert ("anthropic-version: 2023-06-01" in words) == (path == "messages")


def test_thoughts_calls_and_results_are_laid_out_whichever_api_wrote_them(
    admin: httpx.Client, server: Server, provider: FakeProvider, scope: Scope
) -> None:
    thought = responses.thought("x") | {"summary": [{"type": "summary_text", "text": "It may rain."}]}
    call = responses.call("get_weather", WEATHER, "call_2")
    search = {"type": "web_search_call", "id": "ws_1", "status": "completed"}
    provider.answer(responses.whole([thought, responses.message("Let me see."), call, search]))
    ask(server, scope, "responses", ITEMS)
    page = Page(admin, server, scope)
    for shown in ("It may rain.", "Let me see.", "calls get_weather", "result call_1", "web_search_call, "):
        assert shown in page.text, shown

    provider.answer(
        messages.whole(
            [messages.thinking("It may snow.", "s"), messages.tool_use("get_weather", {"city": "Oslo"}, "t2")]
        )
    )
    ask(server, scope, "messages", BLOCKS)
    page = Page(admin, server, scope)
    for shown in ("It may snow.", "calls get_weather", "result t1", "Cloudy."):
        assert shown in page.text, shown


def test_a_turn_that_came_through_another_api_first_is_repeated_in_the_words_of_this_one(
    admin: httpx.Client, server: Server, provider: FakeProvider, scope: Scope
) -> None:
    hello = {"role": "user", "content": "Hello"}
    ask(server, scope, "responses", {"model": "gpt-4", "input": "Hello"})
    turns = [hello, {"role": "assistant", "content": "You said: Hello"}, {"role": "user", "content": "And now?"}]
    for path in ("messages", "chat/completions"):
        ask(server, scope, path, {"model": "c", "messages": turns})
        page = Page(admin, server, scope)
        assert page.sent["messages"] == turns
        assert page.curl
    assert len({exchange["dialect"] for exchange in exchanges(server, scope)}) == 3


def test_a_call_that_came_through_another_api_first_is_shown_and_not_repeated(
    admin: httpx.Client, server: Server, provider: FakeProvider, scope: Scope
) -> None:
    provider.answer(responses.whole([responses.call("get_weather", WEATHER, "call_1")]))
    ask(server, scope, "responses", {"model": "gpt-4", "input": "Weather?"})
    function = {"name": "get_weather", "arguments": WEATHER}
    called = {"role": "assistant", "tool_calls": [{"id": "call_1", "type": "function", "function": function}]}
    result = {"role": "tool", "tool_call_id": "call_1", "content": "Sunny."}
    ask(
        server,
        scope,
        "chat/completions",
        {"model": "c", "messages": [{"role": "user", "content": "Weather?"}, called, result]},
    )
    page = Page(admin, server, scope)
    assert "1 message came through another API first" in page.text
    assert page.curl == []
