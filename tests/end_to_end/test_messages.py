"""Anthropic's Messages with a memory, by the real `anthropic` library."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from anthropic import Anthropic, APIStatusError, BadRequestError, RateLimitError

from tests.end_to_end.conftest import StartServer
from tests.end_to_end.store import exchanges, messages, wait_for_end
from tests.fake_provider import messages as fake
from tests.fake_provider.answers import Answer, Cut
from tests.fake_provider.provider import FakeProvider
from tests.server import PATIENCE, Server

Scope = tuple[str, str]
Json = dict[str, Any]
MODEL = "claude-fake-1"
PLACE = "My bicycle is chained to the third lamp post behind the old opera house."
ASK = "Where is my bicycle chained?"
TOOL: Any = {"name": "get_weather", "description": "The weather.", "input_schema": {"type": "object"}}


def base_url(server: Server, scope: Scope) -> str:
    """The base URL for Anthropic's libraries, which append /v1/messages."""
    return f"{server.url}/partition/{scope[0]}/instance/{scope[1]}"


@pytest.fixture
def claude(server: Server, scope: Scope) -> Iterator[Anthropic]:
    with Anthropic(base_url=base_url(server, scope), api_key="sk-ant", max_retries=0, timeout=PATIENCE) as client:
        yield client


def say(claude: Anthropic, *turns: Any, **more: Any) -> Any:
    said: Any = [{"role": "user", "content": turn} if isinstance(turn, str) else turn for turn in turns]
    return claude.messages.create(model=MODEL, max_tokens=100, messages=said, **more)


def test_the_block_is_a_part_of_the_last_user_message(claude: Anthropic, provider: FakeProvider) -> None:
    say(claude, PLACE)
    for number in range(8):
        say(claude, f"Tell me fact number {number} about the moon.")
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
    cached = {"type": "text", "text": ASK, "cache_control": {"type": "ephemeral"}}
    history = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hi."}]
    say(claude, *history, {"role": "user", "content": [image, cached]}, system="Be brief.")
    sent = provider.last.json
    assert provider.last.target == "/v1/messages"
    assert sent["system"] == "Be brief."
    assert sent["messages"][:2] == history
    first, block, last = sent["messages"][2]["content"]
    assert (first, last) == (image, cached)
    assert block["type"] == "text"
    assert block["text"].startswith("<memory>")
    assert "third lamp post" in block["text"]


def test_a_request_without_memory_goes_out_byte_for_byte_and_is_kept(
    server: Server, provider: FakeProvider, scope: Scope
) -> None:
    body = b'{ "messages" :[{"role":"user","content":"Gr\\u00fc\xc3\x9fe"}], "model":"claude-x", "max_tokens": 9 }'
    headers = {"Content-Type": "application/json", "x-api-key": "sk-1", "anthropic-version": "2023-06-01"}
    url = f"{server.base_url(*scope)}/messages"
    answer = httpx.post(url, content=body, headers=headers, timeout=300, trust_env=False)
    assert provider.last.body == body
    assert provider.last.header("x-api-key") == "sk-1"
    assert provider.last.header("authorization") is None
    assert provider.last.header("anthropic-version") == "2023-06-01"
    question, reply = messages(server, scope)
    assert (question["role"], question["content"]) == ("user", "Grüße")
    assert (reply["role"], reply["content"]) == ("assistant", "You said: Grüße")
    assert json.loads(reply["payload"])["content"] == answer.json()["content"]
    (exchange,) = exchanges(server, scope)
    assert (exchange["dialect"], exchange["ended"], exchange["finish_reason"]) == ("messages", "answered", "end_turn")
    assert (exchange["input_tokens"], exchange["output_tokens"]) == (16, 3)
    assert exchange["usage"]["cache_read_input_tokens"] == 2


def test_a_stream_arrives_as_events_and_is_kept(
    claude: Anthropic, server: Server, provider: FakeProvider, scope: Scope
) -> None:
    content = [
        fake.thinking("Let me see.", "sig=="),
        fake.text("Sunny today"),
        fake.tool_use("f", {"a": [1]}, "toolu_1"),
    ]
    provider.answer(fake.stream(content))
    said: Any = [{"role": "user", "content": "Weather?"}]
    with claude.messages.stream(model=MODEL, max_tokens=100, messages=said) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == "Sunny today"
    assert final.stop_reason == "tool_use"
    _, answer = messages(server, scope)
    assert json.loads(answer["payload"])["content"] == content
    assert answer["content"] == "Sunny today"
    (exchange,) = exchanges(server, scope)
    assert (exchange["finish_reason"], exchange["output_tokens"], exchange["input_tokens"]) == ("tool_use", 3, 16)


@pytest.mark.parametrize("cut", [Cut.FIN, Cut.RST])
def test_a_stream_that_breaks_off_ends_in_an_error_and_is_kept(
    claude: Anthropic, server: Server, provider: FakeProvider, scope: Scope, cut: Cut
) -> None:
    pieces = fake.events([fake.text("Half of this arrives")])[:-4]
    provider.answer(Answer(200, [("Content-Type", "text/event-stream")], [*pieces, cut]))
    said: Any = [{"role": "user", "content": "Go on"}]
    with (
        pytest.raises(APIStatusError, match="provider"),
        claude.messages.create(model=MODEL, max_tokens=9, messages=said, stream=True) as stream,
    ):
        for _ in stream:
            pass
    wait_for_end(server, scope, "cut")
    _, answer = messages(server, scope)
    assert answer["partial"]
    assert "Half of this arrives".startswith(answer["content"])
    assert answer["content"]


def test_a_tool_loop_repeats_the_block_and_keeps_each_turn_once(
    claude: Anthropic, server: Server, provider: FakeProvider, scope: Scope
) -> None:
    say(claude, PLACE)
    before = len(messages(server, scope))
    calls = [fake.tool_use("get_weather", {"city": city}, f"toolu_{city}") for city in ("Paris", "Rome")]
    provider.answer(fake.whole([fake.thinking("Hm.", "sig"), fake.text("Looking."), *calls]))
    history: list[Any] = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
    history.append({"role": "user", "content": [{"type": "text", "text": ASK}]})
    first = say(claude, *history, tools=[TOOL])
    one = provider.last.json["messages"]
    history.append({"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in first.content]})
    results = [
        {
            "type": "tool_result",
            "tool_use_id": f"toolu_{city}",
            "content": [{"type": "text", "text": f"Sunny in {city}"}],
        }
        for city in ("Paris", "Rome")
    ]
    reminder = {"type": "text", "text": "<system-reminder>\nUse the todo tool.\n</system-reminder>"}
    history.append({"role": "user", "content": [*results, reminder]})
    second = say(claude, *history, tools=[TOOL])
    two = provider.last.json["messages"]
    assert two[: len(one)] == one
    assert two[len(one) :] == history[3:]
    history.append({"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in second.content]})
    history.append({"role": "user", "content": "Thanks."})
    # The tool marks another message for its cache, as Claude Code does with every request.
    history[2] = {"role": "user", "content": [history[2]["content"][0] | {"cache_control": {"type": "ephemeral"}}]}
    say(claude, *history, tools=[TOOL])
    kept = messages(server, scope)[before:]
    assert [m["role"] for m in kept] == [
        "user",
        "assistant",
        "user",
        "assistant",
        "tool",
        "assistant",
        "user",
        "assistant",
    ]
    assert kept[4]["content"] == "Sunny in Paris\nSunny in Rome"
    assert json.loads(kept[3]["payload"])["content"][0] == fake.thinking("Hm.", "sig")


def test_the_block_stays_one_part_when_the_client_writes_the_same_message_as_a_text(
    claude: Anthropic, provider: FakeProvider
) -> None:
    """As Claude Code does: marked for the cache in the first round, a plain text from then on."""
    say(claude, PLACE)
    provider.answer(fake.whole([fake.tool_use("get_weather", {}, "toolu_1")]))
    history: list[Any] = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
    first = say(claude, *history, {"role": "user", "content": [fake.text(ASK)]}, tools=[TOOL])
    block, asked = provider.last.json["messages"][2]["content"]
    call = {"role": "assistant", "content": [each.model_dump(exclude_none=True) for each in first.content]}
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "Sunny."}]}
    say(claude, *history, {"role": "user", "content": ASK}, call, result, tools=[TOOL])
    assert provider.last.json["messages"][2]["content"] == [block, asked]


def test_results_come_before_the_block_in_a_message_of_both(claude: Anthropic, provider: FakeProvider) -> None:
    say(claude, PLACE)
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "Sunny."}
    asked = {"type": "text", "text": ASK}
    call = {"role": "assistant", "content": [fake.tool_use("get_weather", {}, "toolu_1")]}
    say(claude, "Hello.", call, {"role": "user", "content": [result, asked]}, tools=[TOOL])
    first, block, last = provider.last.json["messages"][-1]["content"]
    assert (first, last) == (result, asked)
    assert block["text"].startswith("<memory>")


def test_what_a_coding_tool_adds_is_no_words_of_the_user(
    claude: Anthropic, server: Server, provider: FakeProvider, scope: Scope
) -> None:
    reminder = "<system-reminder>\nThe file opera.py has changed: lamp = 3\n</system-reminder>"
    say(claude, {"role": "user", "content": [{"type": "text", "text": reminder}, {"type": "text", "text": PLACE}]})
    question = messages(server, scope)[0]
    assert question["content"] == PLACE
    assert "system-reminder" in question["payload"]
    say(claude, "Hm.", {"role": "assistant", "content": "Yes?"}, f"{reminder}{ASK}")
    assert "third lamp post" in json.dumps(provider.last.json["messages"][-1])
    assert messages(server, scope)[-2]["content"] == ASK


def test_errors_have_anthropics_shape(claude: Anthropic, server: Server, provider: FakeProvider, scope: Scope) -> None:
    provider.answer(fake.error(429, "rate_limit_error", "Slow down."))
    with pytest.raises(RateLimitError, match="Slow down") as limited:
        say(claude, "Hi")
    assert limited.value.request_id == "req_fake"
    assert exchanges(server, scope)[-1]["error"].endswith("Slow down.")
    with pytest.raises(BadRequestError) as refused:
        claude.messages.create(model=MODEL, max_tokens=5, messages=[])
    body: Any = refused.value.body
    assert body["type"] == "error"
    assert body["error"]["type"] == "invalid_request_error"
    assert "request_id" in body
    answer = httpx.post(f"{base_url(server, scope)}/v1/messages", content=b"{", timeout=300, trust_env=False)
    assert answer.json()["error"]["type"] == "invalid_request_error"
    foreign = {"Origin": "https://elsewhere.example"}
    answer = httpx.post(f"{base_url(server, scope)}/v1/messages", headers=foreign, timeout=300, trust_env=False)
    assert (answer.status_code, answer.json()["error"]["type"]) == (403, "permission_error")


def test_other_routes_pass_through(server: Server, provider: FakeProvider, scope: Scope) -> None:
    headers = {"anthropic-version": "2023-06-01", "x-api-key": "sk-1", "anthropic-beta": "files-api"}
    with httpx.Client(headers=headers, timeout=300, trust_env=False) as client:
        for method, path in [
            ("POST", "messages/count_tokens"),
            ("GET", "messages/batches"),
            ("GET", "models"),
            ("POST", "files?beta=true"),
        ]:
            answer = client.request(method, f"{base_url(server, scope)}/v1/{path}")
            assert (provider.last.method, provider.last.target) == (method, f"/v1/{path}")
            assert provider.last.header("anthropic-beta") == "files-api"
            assert answer.headers["x-reservoir-memory"] == "off"


def test_the_provider_anthropic_gets_its_key_and_others_refuse_its_api(
    start_beside: StartServer, provider: FakeProvider, scope: Scope
) -> None:
    settings = {
        "RSV_ANTHROPIC_BASE_URL": provider.base_url,
        "ANTHROPIC_API_KEY": "sk-ant-operator",
        "RSV_MISTRAL_BASE_URL": provider.base_url,
    }
    asked = {"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    server = start_beside(settings)
    with httpx.Client(timeout=300, trust_env=False) as client:
        assert client.post(f"{server.base_url(*scope)}/messages", json=asked).status_code == 200
        assert provider.last.header("x-api-key") == "sk-ant-operator"
        assert provider.last.header("authorization") is None
        assert client.post(f"{server.base_url(*scope)}/chat/completions", json=asked).status_code == 200
        assert provider.last.header("authorization") == "Bearer sk-ant-operator"
        client.get(f"{server.base_url(*scope)}/messages/batches", headers={"anthropic-version": "2023-06-01"})
        seen = len(provider.requests)
        for path, model in [("messages", "mistral-small"), ("responses", MODEL), ("responses", "mistral-small")]:
            body = asked | {"model": model, "input": "Hi"}
            answer = client.post(f"{server.base_url(*scope)}/{path}", json=body)
            assert answer.status_code == 400
            assert "does not speak this API" in answer.json()["error"]["message"]
        assert len(provider.requests) == seen
