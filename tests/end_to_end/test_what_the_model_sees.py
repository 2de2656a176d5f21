"""What is added to a request, what is dropped from it, and what stays unchanged."""

from __future__ import annotations

import json
from typing import Any

import httpx
from openai import OpenAI

from tests.end_to_end import store
from tests.end_to_end.asking import Scope, chat, says
from tests.end_to_end.conftest import StartServer
from tests.fake_provider.answers import Answer, completion
from tests.fake_provider.provider import FakeProvider
from tests.server import Server

# --- memory ------------------------------------------------------------------------------------------


def test_a_client_without_history_gets_the_latest_turns_as_turns(
    client: OpenAI, provider: FakeProvider, server: Server
) -> None:
    for text in ("My dog is called Rex.", "He loves cheese."):
        client.chat.completions.create(model="gpt-4", messages=[{"role": "user", "content": text}])
    raw = client.chat.completions.with_raw_response.create(
        model="gpt-4",
        messages=[{"role": "system", "content": "Be nice."}, {"role": "user", "content": "What is he called?"}],
    )
    assert [(m["role"], m["content"]) for m in provider.last.messages] == [
        ("system", "Be nice."),
        ("user", "My dog is called Rex."),
        ("assistant", "You said: My dog is called Rex."),
        ("user", "He loves cheese."),
        ("assistant", "You said: He loves cheese."),
        ("user", "What is he called?"),
    ]
    assert raw.headers["x-reservoir-memories"] == "4"
    assert int(raw.headers["x-reservoir-memory-tokens"]) > 20


def test_the_turn_of_an_answer_with_several_choices_holds_one_of_them(client: OpenAI, provider: FakeProvider) -> None:
    client.chat.completions.create(model="gpt-4", n=3, messages=[{"role": "user", "content": "Name my dog."}])
    client.chat.completions.create(model="gpt-4", messages=[{"role": "user", "content": "Why that name?"}])
    assert [m["role"] for m in provider.last.messages] == ["user", "assistant", "user"]


def with_history(question: str, **more: Any) -> dict[str, Any]:
    return {
        "model": "gpt-4",
        "messages": [
            {"role": "system", "content": "Be nice."},
            {"role": "user", "content": "Good morning"},
            {"role": "assistant", "content": "Good morning to you"},
            {"role": "user", "content": question},
        ],
        **more,
    }


def test_memories_stand_in_one_block_before_the_last_user_message(
    server: Server, scope: Scope, provider: FakeProvider
) -> None:
    chat(server, scope, says("My dog is called Rex."))
    body = with_history("What is my dog called?")
    answer = chat(server, scope, body)
    got = provider.last.messages
    assert got[:3] == body["messages"][:3] and got[4] == body["messages"][3] and len(got) == 5
    assert got[3]["role"] == "system"
    assert "user: My dog is called Rex." in got[3]["content"]
    assert "not instructions" in got[3]["content"]
    assert answer.headers["x-reservoir-memories"] == str(got[3]["content"].count("\n- "))


def test_other_instances_and_partitions_are_invisible(server: Server, scope: Scope, provider: FakeProvider) -> None:
    chat(server, scope, says("My dog is called Rex."))
    partition, instance = scope
    for other in ((partition, f"{instance}2"), (f"{partition}2", instance), (partition, f"{instance}/x")):
        answer = chat(server, other, says("What is my dog called?"))
        assert "Rex" not in provider.last.body.decode()
        assert answer.headers["x-reservoir-memories"] == "0"


def test_an_encoded_slash_is_part_of_a_name(server: Server, provider: FakeProvider, scope: Scope) -> None:
    url = f"{server.url}/v1/partition/{scope[0]}/instance/team%2Falice/chat/completions"
    for text in ("My dog is called Rex.", "What is my dog called?"):
        httpx.post(url, json=says(text), trust_env=False)
    assert "Rex" in provider.last.body.decode()
    assert len(store.messages(server, (scope[0], "team/alice"))) == 4


def test_messages_that_the_request_holds_are_not_added(server: Server, scope: Scope, provider: FakeProvider) -> None:
    chat(server, scope, says("My dog is called Rex."))
    body = {
        "model": "gpt-4",
        "messages": [
            {"role": "user", "content": "My dog is called Rex."},
            {"role": "assistant", "content": "You said: My dog is called Rex."},
            {"role": "user", "content": "What is my dog called?"},
        ],
    }
    answer = chat(server, scope, body)
    assert provider.last.messages == body["messages"]
    assert answer.headers["x-reservoir-memories"] == "0"


def test_mistral_gets_the_block_inside_the_last_user_message(
    start_beside: StartServer, scope: Scope, provider: FakeProvider
) -> None:
    server = start_beside({"RSV_MISTRAL_BASE_URL": provider.base_url})
    chat(server, scope, says("My dog is called Rex."))
    chat(server, scope, with_history("What is my dog called?") | {"model": "mistral-small-latest"})
    assert [message["role"] for message in provider.last.messages[-2:]] == ["assistant", "user"]
    assert "Rex" in provider.last.messages[-1]["content"]
    assert provider.last.messages[-1]["content"].endswith("\n\nWhat is my dog called?")


def test_recall_off_and_store_off_are_independent(server: Server, scope: Scope, provider: FakeProvider) -> None:
    chat(server, scope, says("My dog is called Rex."))
    body = json.dumps(says("What is my dog called?"))
    answer = chat(server, scope, body, X_Reservoir_Recall="off", X_Reservoir_Store="off")
    assert provider.last.body == body.encode()
    assert answer.headers["x-reservoir-memory"] == "off"
    assert len(store.messages(server, scope)) == 2
    chat(server, scope, body, X_Reservoir_Store="off")
    assert "Rex" in provider.last.body.decode()
    assert len(store.messages(server, scope)) == 2
    chat(server, scope, body, X_Reservoir_Recall="off")
    assert provider.last.body == body.encode()
    assert len(store.messages(server, scope)) == 4


def test_a_budget_of_zero_adds_no_block(server: Server, scope: Scope, provider: FakeProvider) -> None:
    chat(server, scope, says("My dog is called Rex."))
    body = json.dumps(with_history("What is my dog called?"))
    chat(server, scope, body, X_Reservoir_Budget="0")
    assert provider.last.body == body.encode()


def test_a_request_without_a_user_message_recalls_nothing(server: Server, scope: Scope, provider: FakeProvider) -> None:
    chat(server, scope, says("My dog is called Rex."))
    body = json.dumps({"model": "gpt-4", "messages": [{"role": "system", "content": "What is my dog called?"}]})
    chat(server, scope, body)
    assert provider.last.body == body.encode()


def test_every_round_of_a_tool_loop_gets_the_same_bytes_added(
    server: Server, scope: Scope, provider: FakeProvider
) -> None:
    chat(server, scope, says("My dog is called Rex."))
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    calling = {"role": "assistant", "content": None, "tool_calls": [call]}
    question = with_history("What is my dog called?")
    provider.answer(Answer(body=completion("", message=calling)))
    begun = chat(server, scope, question)
    first = provider.last.body
    chat(server, scope, says("Meanwhile: my dog is called Max now."))  # otherwise it would be recalled
    loop = question["messages"] + [calling, {"role": "tool", "tool_call_id": "c1", "content": "42"}]
    answer = chat(server, scope, question | {"messages": loop})
    prefix = first[: first.rindex(b"]}")]
    assert provider.last.body.startswith(prefix)
    assert answer.headers["x-reservoir-memories"] == begun.headers["x-reservoir-memories"] != "0"


def test_injected_text_is_never_stored_as_a_message(server: Server, scope: Scope, provider: FakeProvider) -> None:
    chat(server, scope, says("My dog is called Rex."))
    chat(server, scope, with_history("What is my dog called?"))
    contents = [m["content"] for m in store.messages(server, scope)]
    assert not any("<memory>" in content for content in contents)
    assert len(contents) == 2 + 4


# --- the window --------------------------------------------------------------------------------------


def test_a_last_message_longer_than_the_window_is_refused_and_not_stored(
    server: Server, scope: Scope, provider: FakeProvider
) -> None:
    answer = chat(server, scope, says("word " * 9000))
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "context_length_exceeded")
    assert "8192" in error["message"] and "9005" in error["message"].replace(",", "")
    assert provider.requests == [] and store.messages(server, scope) == []


def test_a_history_longer_than_the_window_loses_its_oldest_turns(
    server: Server, scope: Scope, provider: FakeProvider
) -> None:
    turns = [{"role": ("user", "assistant")[i % 2], "content": f"{i} " + "word " * 1500} for i in range(8)]
    body = {"model": "gpt-4", "messages": [{"role": "system", "content": "Be nice."}, *turns, says("x")["messages"][0]]}
    assert chat(server, scope, body).status_code == 200
    sent = provider.last.messages
    assert sent[0]["role"] == "system" and sent[-1]["content"] == "x"
    assert sent[1]["role"] == "user" and 3 <= len(sent) < 9
    assert store.exchanges(server, scope)[-1]["left_out"] == [*range(10 - len(sent))], "places of its turns"


def test_an_unknown_model_is_never_cut(server: Server, scope: Scope, provider: FakeProvider) -> None:
    body = json.dumps(says("word " * 20000) | {"model": "unknown-model"})
    assert chat(server, scope, body).status_code == 200
    assert provider.last.body == body.encode()


def test_inside_the_users_message_a_tool_loop_repeats_the_block_byte_for_byte(
    server: Server, scope: Scope, provider: FakeProvider
) -> None:
    model = {"model": "gpt-oss-120b"}
    chat(server, scope, says("My dog is called Rex."))
    question = with_history("What is my dog called?") | model
    chat(server, scope, question)
    first = provider.last.messages
    call = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
    loop = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "nothing"},
    ]
    chat(server, scope, {**question, "messages": [*question["messages"], *loop]})
    assert "Rex" in first[-1]["content"] and first[-1]["role"] == "user"
    assert provider.last.messages == [*first, *loop]
    stored = [message["content"] for message in store.messages(server, scope)]
    assert "What is my dog called?" in stored
    assert not any("<memory>" in content for content in stored)
