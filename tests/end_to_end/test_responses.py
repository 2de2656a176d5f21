"""OpenAI's Responses with a memory, by the real `openai` library."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from openai import APIError, NotFoundError, OpenAI
from pydantic import BaseModel

from tests.end_to_end.store import exchanges, messages, rows, wait_for_end
from tests.fake_provider import responses
from tests.fake_provider.answers import Answer, Cut, error_body
from tests.fake_provider.provider import FakeProvider
from tests.server import Server

Scope = tuple[str, str]
Json = dict[str, Any]
PLACE = "My bicycle is chained to the third lamp post behind the old opera house."
ASK = "Where is my bicycle chained?"
TOOL: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": False,
}


def post(server: Server, scope: Scope, body: bytes | Json, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    names = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(
        f"{server.base_url(*scope)}/responses", content=content, headers=names, timeout=300, trust_env=False
    )


def blocks(request: Json) -> list[int]:
    """The places of items with a block of memories."""
    return [i for i, item in enumerate(request["input"]) if "<memory>" in json.dumps(item)]


def test_what_was_said_is_recalled_as_an_item_before_the_last_user_message(
    client: OpenAI, provider: FakeProvider
) -> None:
    client.responses.create(model="gpt-4o", input=PLACE)
    for number in range(8):
        client.responses.create(model="gpt-4o", input=f"Tell me fact number {number} about the moon.")
    items = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hi."}]
    client.responses.create(model="gpt-4o", instructions="Be brief.", input=[*items, {"role": "user", "content": ASK}])  # type: ignore[list-item]
    sent = provider.last.json
    assert sent["instructions"] == "Be brief."
    assert blocks(sent) == [2]
    assert "third lamp post" in sent["input"][2]["content"]
    assert sent["input"][2]["role"] == "system"
    assert [*sent["input"][:2], sent["input"][3]] == [*items, {"role": "user", "content": ASK}]


def test_a_request_without_memory_goes_out_byte_for_byte_and_is_kept(
    server: Server, provider: FakeProvider, scope: Scope
) -> None:
    body = b'{ "input" : "Gr\\u00fc\xc3\x9fe" ,"model":"gpt-4o", "weird": 1.50 }'
    answer = post(server, scope, body)
    assert answer.status_code == 200
    assert answer.headers["x-reservoir-memory"] == "on"
    assert answer.headers["x-reservoir-memories"] == "0"
    assert provider.last.body == body
    question, reply = messages(server, scope)
    assert (question["role"], question["content"]) == ("user", "Grüße")
    assert (reply["role"], reply["content"]) == ("assistant", "You said: Grüße")
    assert json.loads(reply["payload"])["output"] == answer.json()["output"]
    (exchange,) = exchanges(server, scope)
    assert exchange["dialect"] == "responses"
    assert exchange["response_id"] == answer.json()["id"]
    assert (exchange["ended"], exchange["input_tokens"], exchange["output_tokens"]) == ("answered", 9, 3)
    assert exchange["usage"]["prompt_tokens_details"] == {"cached_tokens": 2}


def test_a_stream_arrives_as_typed_events_and_is_kept(
    client: OpenAI, server: Server, provider: FakeProvider, scope: Scope
) -> None:
    kinds, text = [], ""
    with client.responses.stream(model="gpt-4o", input="one two three") as stream:
        for event in stream:
            kinds.append(event.type)
            text += event.delta if event.type == "response.output_text.delta" else ""
        final = stream.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert text == final.output_text == "You said: one two three"
    assert [m["content"] for m in messages(server, scope)] == ["one two three", text]
    assert exchanges(server, scope)[0]["response_id"] == final.id


@pytest.mark.parametrize("cut", [Cut.FIN, Cut.RST])
def test_a_stream_that_breaks_off_is_kept_as_far_as_it_came(
    client: OpenAI, server: Server, provider: FakeProvider, scope: Scope, cut: Cut
) -> None:
    pieces = responses.events([responses.thought("abc"), responses.message("Half of this arrives")])[:-6]
    provider.answer(Answer(200, [("Content-Type", "text/event-stream")], [*pieces, cut]))
    with pytest.raises(APIError), client.responses.create(model="gpt-4o", input="Go on", stream=True) as stream:
        for _ in stream:
            pass
    exchange = wait_for_end(server, scope, "cut")
    _, answer = messages(server, scope)
    assert answer["partial"]
    assert "Half of this".startswith(answer["content"][:12])
    assert answer["content"]
    assert exchange["response_id"].startswith("resp_")


def test_a_tool_loop_repeats_the_block_in_its_place_and_keeps_each_turn_once(
    client: OpenAI, server: Server, provider: FakeProvider, scope: Scope
) -> None:
    client.responses.create(model="gpt-4o", input=PLACE)
    before = len(messages(server, scope))
    items = [
        responses.thought("secret"),
        responses.call("get_weather", '{"city": "Paris"}', "call_1"),
        responses.call("get_weather", '{"city": "Rome"}', "call_2"),
    ]
    provider.answer(responses.whole(items))
    history: list[Any] = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
    history.append({"role": "user", "content": ASK})
    first = client.responses.create(model="gpt-4o", input=history, tools=[TOOL], store=False)
    one = provider.last.json["input"]
    history += [item.model_dump(exclude_none=True) for item in first.output]
    history += [{"type": "function_call_output", "call_id": f"call_{n}", "output": "Sunny."} for n in (1, 2)]
    second = client.responses.create(model="gpt-4o", input=history, tools=[TOOL], store=False)
    two = provider.last.json["input"]
    assert blocks(provider.last.json) == [2]
    assert two[: len(one)] == one
    assert two[len(one) :] == history[3:]
    history += [item.model_dump(exclude_none=True) for item in second.output]
    history.append({"role": "user", "content": "Thanks, and my bicycle?"})
    client.responses.create(model="gpt-4o", input=history, tools=[TOOL], store=False)
    kept = messages(server, scope)[before:]
    assert [m["role"] for m in kept] == [
        *("user", "assistant", "user", "assistant", "tool", "tool", "assistant", "user", "assistant")
    ]
    calls = json.loads(kept[3]["payload"])["output"]
    assert [item["type"] for item in calls] == ["reasoning", "function_call", "function_call"]
    assert calls[0]["encrypted_content"] == "secret"


def test_structured_answers_are_parsed(client: OpenAI, provider: FakeProvider) -> None:
    class Weather(BaseModel):
        city: str
        degrees: int

    provider.answer(responses.whole([responses.message('{"city": "Rome", "degrees": 31}')]))
    parsed = client.responses.parse(model="gpt-4o", input="Weather in Rome?", text_format=Weather)
    assert parsed.output_parsed == Weather(city="Rome", degrees=31)


def test_a_chain_is_one_conversation_and_is_not_told_the_same_twice(
    client: OpenAI, server: Server, provider: FakeProvider, scope: Scope
) -> None:
    client.responses.create(model="gpt-4o", input=PLACE)
    first = client.responses.create(model="gpt-4o", input=[{"role": "user", "content": ASK}])
    assert "third lamp post" in json.dumps(provider.last.json["input"])
    second = client.responses.create(
        model="gpt-4o", input="And where exactly is my bicycle chained?", previous_response_id=first.id
    )
    sent = provider.last.json
    assert sent["previous_response_id"] == first.id
    assert "third lamp post" not in json.dumps(sent["input"])
    assert "Where is my bicycle" not in json.dumps(sent["input"])
    kept = messages(server, scope)
    assert [m["parent_id"] for m in kept[3:]] == [m["id"] for m in kept[2:-1]]
    assert not any(m["alone"] for m in kept[4:])
    provider.answer(responses.whole([responses.call("get_weather", "{}", "call_9")]))
    third = client.responses.create(
        model="gpt-4o", input="Weather at my bicycle?", previous_response_id=second.id, tools=[TOOL]
    )
    outputs: Any = [{"type": "function_call_output", "call_id": "call_9", "output": "Rain."}]
    client.responses.create(model="gpt-4o", input=outputs, previous_response_id=third.id)
    assert provider.last.json["input"] == outputs
    kept = messages(server, scope)
    assert [m["role"] for m in kept[-4:]] == ["user", "assistant", "tool", "assistant"]
    assert [m["parent_id"] for m in kept[-3:]] == [m["id"] for m in kept[-4:-1]]


def test_an_unknown_previous_response_is_the_providers_business(
    client: OpenAI, server: Server, provider: FakeProvider, scope: Scope
) -> None:
    provider.answer(Answer(404, body=error_body("Previous response not found.")))
    with pytest.raises(NotFoundError, match="Previous response not found"):
        client.responses.create(model="gpt-4o", input="Go on", previous_response_id="resp_nowhere")
    assert exchanges(server, scope)[-1]["ended"] == "failed"


def test_turns_sent_as_references_are_not_stored_again(
    client: OpenAI, server: Server, provider: FakeProvider, scope: Scope
) -> None:
    first = client.responses.create(model="gpt-4o", input="My cat is called Ada.")
    reference = {"type": "item_reference", "id": first.output[0].id}
    said = {"role": "user", "content": "My cat is called Ada."}
    items: Any = [said, reference, {"role": "user", "content": "And the dog is Bob."}]
    client.responses.create(model="gpt-4o", input=items)
    assert provider.last.json["input"] == items
    kept = messages(server, scope)
    assert [m["role"] for m in kept] == ["user", "assistant", "user", "assistant"]
    assert kept[2]["parent_id"] == kept[1]["id"]
    assert not kept[1]["abandoned"]


def test_an_answer_made_in_the_background_is_kept_when_it_is_fetched(
    client: OpenAI, server: Server, provider: FakeProvider, scope: Scope
) -> None:
    queued = client.responses.create(model="gpt-4o", input="Think long about pears.", background=True)
    assert queued.status == "queued"
    assert [m["role"] for m in messages(server, scope)] == ["user"]
    assert exchanges(server, scope)[0]["ended"] == "open"
    body = responses.response([], id=queued.id, status="in_progress", background=True)
    provider.answer(Answer(200, body=json.dumps(body).encode()))
    assert client.responses.retrieve(queued.id).status == "in_progress"
    assert exchanges(server, scope)[0]["ended"] == "open"
    done = responses.response([responses.message("Pears are best in May.")], id=queued.id, background=True)
    for _ in range(2):
        provider.answer(Answer(200, body=json.dumps(done).encode()))
        assert client.responses.retrieve(queued.id).output_text == "Pears are best in May."
    assert [m["content"] for m in messages(server, scope)] == ["Think long about pears.", "Pears are best in May."]
    assert exchanges(server, scope)[0]["ended"] == "answered"


def test_other_routes_of_responses_pass_through(server: Server, provider: FakeProvider, scope: Scope) -> None:
    base = server.base_url(*scope)
    with httpx.Client(timeout=300, trust_env=False) as client:
        for method, path in [
            ("GET", "responses/resp_1"),
            ("DELETE", "responses/resp_1"),
            ("POST", "responses/resp_1/cancel"),
            ("GET", "responses/resp_1/input_items?limit=2"),
            ("POST", "responses/compact"),
        ]:
            answer = client.request(method, f"{base}/{path}")
            assert (provider.last.method, provider.last.target) == (method, f"/v1/{path}")
            assert answer.headers["x-reservoir-memory"] == "off"
    assert exchanges(server, scope) == []


def test_a_websocket_is_refused_with_a_reason(server: Server, scope: Scope) -> None:
    headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    headers["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ=="
    answer = httpx.get(f"{server.base_url(*scope)}/responses", headers=headers, timeout=300, trust_env=False)
    assert answer.status_code == 400
    assert "WebSockets are not supported" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'{"input": 5}',
        b'{"input": []}',
        b'{"input": ""}',
        b'{"input": [5]}',
        b'{"input": [{}]}',
        b'{"input": "x", "model": 5}',
        b'{"input": [{"role": 5, "content": "x"}]}',
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(
    server: Server, provider: FakeProvider, scope: Scope, body: bytes
) -> None:
    answer = post(server, scope, body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert provider.requests == []


def test_items_that_nobody_knows_are_forwarded_and_kept(server: Server, provider: FakeProvider, scope: Scope) -> None:
    odd = {"type": "telepathy_call", "id": "tp_1", "content": 5, "deep": {"er": [1.0, None]}}
    items = [{"role": "user", "content": "hm"}, odd, {"type": "telepathy_call_output", "output": {"a": 1}}]
    items += [{"role": "oracle", "content": "x"}, {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}]
    body = json.dumps({"model": "gpt-4o", "input": items}).encode()
    assert post(server, scope, body).status_code == 200
    assert provider.last.body == body
    assert [m["role"] for m in messages(server, scope)] == ["user", "assistant", "tool", "oracle", "user", "assistant"]
    assert odd in json.loads(messages(server, scope)[1]["payload"])["output"]


def test_memory_can_be_switched_off(server: Server, provider: FakeProvider, scope: Scope) -> None:
    post(server, scope, {"model": "gpt-4o", "input": PLACE})
    asked = {"model": "gpt-4o", "input": ASK}
    answer = post(server, scope, asked, X_Reservoir_Recall="off", X_Reservoir_Store="off")
    assert provider.last.body == json.dumps(asked).encode()
    assert answer.headers["x-reservoir-memory"] == "off"
    assert len(messages(server, scope)) == 2


def test_a_title_that_a_front_end_asks_for_leaves_no_message(client: OpenAI, server: Server, scope: Scope) -> None:
    client.responses.create(model="gpt-4o", instructions="You are a title generator.", input="hello")
    assert messages(server, scope) == []
    assert rows(server, "SELECT rule FROM conversations_exchange WHERE rule = 'opencode-title'")


def test_a_tool_loop_repeats_the_block_for_models_that_are_not_openais(
    client: OpenAI, server: Server, provider: FakeProvider, scope: Scope
) -> None:
    model = "a-model-of-ones-own"
    client.responses.create(model=model, input=PLACE)
    provider.answer(responses.whole([responses.call("get_weather", "{}", "call_1")]))
    history: list[Any] = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
    history.append({"role": "user", "content": [{"type": "input_text", "text": ASK}]})
    first = client.responses.create(model=model, input=history, tools=[TOOL], store=False)
    one = provider.last.json["input"]
    assert [item["role"] for item in one] == ["user", "assistant", "user", "user"]
    assert one[2]["content"].startswith("<memory>")
    history += [item.model_dump(exclude_none=True) for item in first.output]
    history.append({"type": "function_call_output", "call_id": "call_1", "output": "Sunny."})
    client.responses.create(model=model, input=history, tools=[TOOL], store=False)
    assert provider.last.json["input"] == [*one, *history[3:]]
