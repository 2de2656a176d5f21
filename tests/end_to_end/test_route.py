"""The chat route as apps and providers see it: requests, answers, and the log."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from tests.end_to_end import store
from tests.end_to_end.asking import Scope, chat, says
from tests.end_to_end.conftest import StartServer
from tests.fake_provider.answers import Answer, Cut, completion, error_body, text_answer
from tests.fake_provider.provider import FakeProvider, closed_port
from tests.server import Server

# --- what is forwarded -----------------------------------------------------------------------------------


def test_a_request_that_memory_does_not_change_is_forwarded_byte_for_byte(
    server: Server, scope: Scope, provider: FakeProvider
) -> None:
    body = '{ "temperature":1.0e0,"seed":12345678901234567890, "messages" : [{"content":"h\\u00e9","role":"user"} ]}'
    chat(server, scope, body)
    assert provider.last.body == body.encode()


def test_a_changed_request_keeps_every_value_outside_messages_and_every_message(
    server: Server, scope: Scope, provider: FakeProvider
) -> None:
    chat(server, scope, says("The password of the cellar is swordfish."))
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    sent = (
        '{"z": 1.10, "tools": [{"type":"function","function":{"name":"f","parameters":{"b":1,"a":2}}}], "x_new": [1e3],'
        ' "messages": [{"role": "developer", "content": "Be brief.", "extra": 1.0}, {"role": "user", "content":'
        f' [{{"type": "text", "text": "What is the password of the cellar?"}}, {json.dumps(image)}]}}],'
        ' "response_format": {"type": "text"}, "model": "gpt-4", "n": 2}'
    )
    chat(server, scope, sent)
    got = provider.last.body.decode()
    before, after = sent.split('"messages": [')[0], sent.split("}]}],")[1]
    assert got.startswith(before) and got.endswith(after)
    assert '{"role": "developer", "content": "Be brief.", "extra": 1.0}' in got
    assert [m["role"] for m in provider.last.messages] == ["developer", "user", "assistant", "user"]
    assert provider.last.messages[-1]["content"][1] == image


def test_headers_are_forwarded_except_those_of_the_connection_and_ours(
    server: Server, scope: Scope, provider: FakeProvider
) -> None:
    chat(
        server,
        scope,
        says("hi"),
        Authorization="Bearer sk-mine",
        OpenAI_Organization="org-1",
        X_Custom="kept",
        Cookie="a=b",
        X_Reservoir_Budget="10",
        Connection="close, x-hop",
        X_Hop="dropped",
    )
    names = {name.lower() for name, _ in provider.last.headers}
    assert provider.last.header("authorization") == "Bearer sk-mine"
    assert provider.last.header("openai-organization") == "org-1"
    assert provider.last.header("x-custom") == "kept"
    assert provider.last.header("accept-encoding") == "identity"
    assert provider.last.header("host") == f"127.0.0.1:{provider.port}"
    assert not names & {"cookie", "x-reservoir-budget", "x-hop"}


def test_cookies_of_one_scope_do_not_reach_the_provider_with_requests_of_another(
    server: Server, scope: Scope, provider: FakeProvider
) -> None:
    provider.answer(text_answer("one", [("Set-Cookie", "session=secret"), ("Set-Cookie", "b=c; Path=/")]))
    first = chat(server, scope, says("hi"))
    chat(server, ("another", "scope"), says("hi"))
    assert "set-cookie" not in first.headers
    assert provider.last.header("cookie") is None


def test_a_request_without_a_key_gets_its_providers_key_only(
    start_beside: StartServer, scope: Scope, provider: FakeProvider
) -> None:
    server = start_beside(
        {
            "OPENAI_API_KEY": "sk-env",
            "MISTRAL_API_KEY": "mk-env",
            "RSV_MISTRAL_BASE_URL": f"{provider.base_url}/chat/completions",
            "RSV_OLLAMA_BASE_URL": provider.base_url,
        }
    )
    chat(server, scope, says("hi"))
    assert provider.last.header("authorization") == "Bearer sk-env"
    chat(server, scope, says("hi") | {"model": "mistral/open-mistral-7b"})
    assert provider.last.header("authorization") == "Bearer mk-env"
    assert provider.last.json["model"] == "open-mistral-7b"
    chat(server, scope, says("hi") | {"model": "llama3.2"})
    assert provider.last.header("authorization") is None
    chat(server, scope, says("hi"), Authorization="Bearer sk-mine")
    assert provider.last.header("authorization") == "Bearer sk-mine"


def test_nothing_is_sent_twice_when_a_connection_breaks(server: Server, scope: Scope, provider: FakeProvider) -> None:
    chat(server, scope, says("warms the connection up"))
    provider.answer_always(lambda request: Answer(before=[Cut.RST]))
    before = len(provider.requests)
    assert chat(server, scope, says("hi")).status_code == 502
    with httpx.Client(trust_env=False) as client:
        assert client.get(f"{server.base_url(*scope)}/models").status_code == 502
    assert len(provider.requests) - before == 2


# --- what is relayed ---------------------------------------------------------------------------------


def test_the_answer_is_relayed_unchanged(server: Server, scope: Scope, provider: FakeProvider) -> None:
    body = completion("Hello", x_unknown={"a": 1.50})
    kept = [("x-request-id", "req_9"), ("openai-processing-ms", "5"), ("x-ratelimit-remaining-tokens", "7")]
    kept.append(("date", "Mon, 23 Nov 2026 07:00:00 GMT"))
    dropped = [("access-control-allow-origin", "*"), ("set-cookie", "a=b"), ("x-reservoir-memory", "forged")]
    dropped += [("strict-transport-security", "max-age=9; includeSubDomains"), ("alt-svc", 'h3=":443"')]
    provider.answer(Answer(200, [("Content-Type", "application/json"), *kept, *dropped], body))
    answer = chat(server, scope, says("hi"))
    assert answer.content == body
    assert {name: answer.headers[name] for name, _ in kept} == dict(kept)
    for name in ("access-control-allow-origin", "strict-transport-security", "alt-svc"):
        assert name not in answer.headers, "what holds for the provider's host says nothing of ours"
    assert answer.headers["x-reservoir-memory"] == "on"
    assert len(answer.headers["x-reservoir-trace-id"]) == 36
    assert "recall;dur=" in answer.headers["server-timing"]


@pytest.mark.parametrize("status", [400, 401, 429, 500])
def test_a_providers_error_is_relayed_unchanged_and_the_question_is_stored(
    server: Server, scope: Scope, provider: FakeProvider, status: int
) -> None:
    body = error_body("No.", code="nope")
    provider.answer(Answer(status, [("Content-Type", "application/json"), ("retry-after", "7")], body))
    answer = chat(server, scope, says("hi"))
    assert (answer.status_code, answer.content, answer.headers["retry-after"]) == (status, body, "7")
    assert [m["content"] for m in store.messages(server, scope)] == ["hi"]
    (exchange,) = store.exchanges(server, scope)
    assert (exchange["ended"], exchange["status"]) == ("failed", status)


def test_an_answer_that_is_not_json_is_relayed_unchanged(server: Server, scope: Scope, provider: FakeProvider) -> None:
    provider.answer(Answer(200, [("Content-Type", "text/html")], b"<h1>\xffmaintenance"))
    answer = chat(server, scope, says("hi"))
    assert answer.content == b"<h1>\xffmaintenance"
    assert answer.headers["content-type"] == "text/html"


def test_a_provider_that_refuses_connections_is_a_502_in_openais_shape(start_beside: StartServer, scope: Scope) -> None:
    with closed_port() as port:
        server = start_beside({"RSV_OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1"})
        answer = chat(server, scope, says("hi"))
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "provider_unreachable"
    assert answer.headers["x-reservoir-trace-id"]
    assert [m["content"] for m in store.messages(server, scope)] == ["hi"]


# --- everything else ---------------------------------------------------------------------------------


def test_everything_else_is_passed_through_untouched(server: Server, scope: Scope, provider: FakeProvider) -> None:
    base = server.base_url(*scope)
    with httpx.Client(trust_env=False, headers={"Accept-Encoding": "gzip, br"}) as client:
        answer = client.put(f"{base}/files/a%2Fb?x=1&y=%20", content=b"\x00\xff", headers={"X-A": "b"}).json()
        assert (answer["method"], answer["target"]) == ("PUT", "/v1/files/a%2Fb?x=1&y=%20")
        assert provider.last.body == b"\x00\xff"
        assert provider.last.header("accept-encoding") == "gzip, br"
        for method in ("GET", "DELETE", "OPTIONS", "PATCH"):
            client.request(method, f"{base}/chat/completions/id-1/messages")
            assert (provider.last.method, provider.last.target) == (method, "/v1/chat/completions/id-1/messages")
        client.get(f"{base}/chat/completions?limit=1")
        assert (provider.last.method, provider.last.target) == ("GET", "/v1/chat/completions?limit=1")
        assert client.head(f"{base}/models").status_code == 200
    assert store.messages(server, scope) == []


def test_paths_queries_and_repeated_headers_arrive_as_they_were_sent(
    server: Server, scope: Scope, provider: FakeProvider
) -> None:
    address = f"{server.base_url(*scope)}/files/%7ea%2fb;c='d'"
    with httpx.Client(trust_env=False) as client:
        client.get(f"{address}?x=%7e&x=%2F+%20", headers=[(b"X-Tag", b"one"), (b"X-Tag", "två".encode())])
    assert provider.last.target.endswith("/files/%7ea%2fb;c='d'?x=%7e&x=%2F+%20")
    assert [value for name, value in provider.last.headers if name.lower() == "x-tag"] == [
        "one",
        "två".encode().decode("latin-1"),
    ]


def test_the_model_of_a_json_body_chooses_the_provider_of_any_route(
    start_beside: StartServer, scope: Scope, provider: FakeProvider
) -> None:
    with FakeProvider() as ollama:
        server = start_beside({"RSV_OLLAMA_BASE_URL": ollama.base_url})
        body = {"model": "ollama/nomic-embed-text", "input": "x"}
        httpx.post(f"{server.base_url(*scope)}/embeddings", json=body, trust_env=False)
        assert ollama.last.json == {"model": "nomic-embed-text", "input": "x"}
        assert provider.requests == []


def test_forms_and_paths_choose_the_provider_too(
    start_beside: StartServer, scope: Scope, provider: FakeProvider
) -> None:
    with FakeProvider() as mistral:
        server = start_beside({"RSV_MISTRAL_BASE_URL": mistral.base_url})
        key = {"Authorization": "Bearer of-mistral"}
        with OpenAI(base_url=server.base_url(*scope), api_key="of-mistral", max_retries=0) as client:
            client.audio.transcriptions.with_raw_response.create(model="mistral/voxtral-mini", file=b"RIFF")
        assert mistral.last.path.endswith("/audio/transcriptions")
        assert b'name="model"\r\n\r\nvoxtral-mini\r\n' in mistral.last.body
        for model in ("mistral-small-latest", "mistral/mistral-small-latest", "mistral%2Fmistral-small-latest"):
            httpx.get(f"{server.base_url(*scope)}/models/{model}", headers=key, trust_env=False)
            assert mistral.last.path.endswith("/v1/models/mistral-small-latest")
        assert provider.requests == [], "a key left for another provider than its own"


@pytest.mark.parametrize("command", ["view", "foo/3", "search?term=hush"])
def test_a_misspelt_command_is_not_passed_on(
    server: Server, scope: Scope, provider: FakeProvider, command: str
) -> None:
    answer = httpx.get(f"{server.base_url(*scope)}/command/{command}", trust_env=False)
    assert answer.status_code == 404 and "No such command" in answer.json()["error"]["message"]
    assert provider.requests == []


def test_an_upload_and_a_download_of_any_size_take_little_memory(
    start_beside: StartServer, scope: Scope, provider: FakeProvider
) -> None:
    server = start_beside()
    piece = b"x" * 2**20
    size = 200 * 2**20
    provider.answer(Answer(body=(piece for _ in range(200)), content_length=size))
    url = f"{server.base_url(*scope)}/files/big/content"
    received = 0
    with httpx.stream(
        "POST", url, content=(piece for _ in range(200)), headers={"Content-Length": str(size)}, trust_env=False
    ) as answer:
        for part in answer.iter_raw():
            received += len(part)
    assert (provider.last.size, received) == (size, size)
    assert server.process
    with Path(f"/proc/{server.process.pid}/status").open() as status:
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    assert peak < 550_000, f"{peak} KB"


# --- the log ------------------------------------------------------------------------------------------


def test_neither_query_strings_nor_content_are_logged(server: Server, scope: Scope, provider: FakeProvider) -> None:
    httpx.get(f"{server.base_url(*scope)}/models?api-key=hush-hush", trust_env=False)
    provider.answer(Answer(500, body=error_body("sk-verysecret")))
    chat(server, scope, says("never-log-this"), Authorization="Bearer sk-verysecret")
    assert not any(secret in server.log for secret in ("hush-hush", "never-log-this", "sk-verysecret"))
