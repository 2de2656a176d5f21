"""The first steps after cloning the repository: README's examples and promises."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import psycopg
import pytest
from openai import OpenAI
from psycopg.conninfo import make_conninfo

from reservoir_site.postgres_folder import embedded_location
from tests.end_to_end.conftest import StartServer
from tests.fake_provider.answers import Answer, Gate, Request, error_body, stream_answer, stream_events, text_answer
from tests.fake_provider.provider import FakeProvider
from tests.server import Server, clean_environment

README = (Path(__file__).resolve().parent.parent.parent / "README.md").read_text()
FACT = "Please note: my cat is called Miso and she is afraid of umbrellas."
QUESTION = "What is my cat called?"
SMALL_TALK = [f"Tell me what {number} times {number} is." for number in range(2, 12)]


def example(language: str, mark: str) -> str:
    """README's code block in this language that contains `mark`."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    (found,) = [block for block in blocks if mark in block]
    return str(found)


def run_example(command: list[str], server: Server, user: str) -> str:
    environment = clean_environment() | {
        "OPENAI_API_KEY": "sk-newcomer",
        "USER": user,
        "RESERVOIR_PORT": str(server.port),
        "no_proxy": "*",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ask(client: OpenAI, text: str, **more: Any) -> str:
    chat = client.chat.completions.create(model="gpt-4", messages=[{"role": "user", "content": text}], **more)
    assert isinstance(chat.choices[0].message.content, str)
    return chat.choices[0].message.content


def knowing(request: Request) -> Answer:
    """Answer with the contents of the request, as a model that knows nothing else."""
    said = " ".join(str(message.get("content")) for message in request.messages)
    name = re.search(r"cat is called (\w+)", said)
    text = f"Your cat is called {name[1]}." if name else "I do not know."
    return stream_answer(text) if request.json.get("stream") else text_answer(text)


def added(request: Request) -> list[dict[str, Any]]:
    """The messages before the last one, in requests whose client sent one message."""
    return request.messages[:-1]


def long_ago(client: OpenAI) -> None:
    """State the fact, then chat until it is no longer among the latest turns."""
    for text in (FACT, *SMALL_TALK):
        ask(client, text)


@pytest.fixture
def elsewhere(server: Server, scope: tuple[str, str]) -> Callable[[str, str], OpenAI]:
    def client(partition: str, instance: str) -> OpenAI:
        return OpenAI(base_url=server.base_url(partition, instance), api_key="sk-client", max_retries=0, timeout=300)

    return client


class TestReadme:
    def test_the_curl_command(self, server: Server, provider: FakeProvider, scope: tuple[str, str]) -> None:
        command = example("bash", "brave little toaster").replace("http://localhost:3017", server.url)
        answer = json.loads(run_example(["bash", "-c", command], server, scope[0]))
        assert answer["choices"][0]["message"]["content"].startswith("You said: Write a one-sentence bedtime")
        assert provider.last.target == "/v1/chat/completions"
        assert provider.last.header("authorization") == "Bearer sk-newcomer"
        sent = re.search(r"-d '(.*)'", command)
        assert sent
        assert provider.last.body == sent[1].encode(), "there is nothing to recall yet, so the bytes are the client's"

    def test_the_python_example(self, server: Server, provider: FakeProvider, scope: tuple[str, str]) -> None:
        code = example("python", "from openai import OpenAI")
        printed = run_example([sys.executable, "-c", code], server, scope[0])
        assert printed == "You said: Write a one-sentence bedtime story about a curious robot.\n"
        assert provider.last.header("authorization") == "Bearer sk-newcomer"

    def test_both_share_a_memory(self, server: Server, provider: FakeProvider, scope: tuple[str, str]) -> None:
        command = example("bash", "brave little toaster").replace("http://localhost:3017", server.url)
        run_example(["bash", "-c", command], server, scope[0])
        run_example([sys.executable, "-c", example("python", "from openai import OpenAI")], server, scope[0])
        assert [message["role"] for message in provider.last.messages] == ["user", "assistant", "user"]
        assert "brave little toaster" in provider.last.messages[0]["content"]


class TestMemory:
    def test_a_follow_up_question_is_answered_from_the_turn_before(
        self, provider: FakeProvider, client: OpenAI
    ) -> None:
        provider.answer_always(knowing)
        ask(client, FACT)
        assert ask(client, QUESTION) == "Your cat is called Miso."
        assert added(provider.last) == [
            {"role": "user", "content": FACT},
            {"role": "assistant", "content": "Your cat is called Miso."},
        ]

    def test_a_question_is_answered_from_a_message_of_long_ago(self, provider: FakeProvider, client: OpenAI) -> None:
        long_ago(client)
        provider.answer_always(knowing)
        assert ask(client, QUESTION) == "Your cat is called Miso."
        *turns, block = added(provider.last)
        assert len(turns) <= 15
        assert not any("Miso" in turn["content"] for turn in turns)
        assert block["role"] == "system"
        assert "Miso" in block["content"]
        assert provider.last.messages[-1] == {"role": "user", "content": QUESTION}

    def test_another_instance_gets_no_memories(
        self,
        provider: FakeProvider,
        client: OpenAI,
        scope: tuple[str, str],
        elsewhere: Callable[[str, str], OpenAI],
    ) -> None:
        ask(client, FACT)
        provider.answer_always(knowing)
        partition, instance = scope
        strangers = [
            (partition, "another"),
            (f"{partition}-2", instance),
            (partition, instance.upper()),
            (partition, f"{instance}/"),
            (f"{partition}/{instance}", instance),
        ]
        for stranger in strangers:
            with elsewhere(*stranger) as client_elsewhere:
                answer = client_elsewhere.chat.completions.with_raw_response.create(
                    model="gpt-4", messages=[{"role": "user", "content": QUESTION}]
                )
            assert answer.parse().choices[0].message.content == "I do not know.", stranger
            assert provider.last.messages == [{"role": "user", "content": QUESTION}]
            assert answer.headers["x-reservoir-memories"] == "0"

    def test_a_history_that_the_client_sends_is_forwarded_unchanged(
        self, provider: FakeProvider, client: OpenAI
    ) -> None:
        ask(client, FACT)
        history: list[Any] = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": FACT},
            {"role": "assistant", "content": f"You said: {FACT}"},
            {"role": "user", "content": QUESTION},
        ]
        client.chat.completions.create(model="gpt-4", messages=history)
        assert provider.last.messages == history, "it already contains everything that could be recalled"

    def test_recall_and_store_are_switched_off_separately(self, provider: FakeProvider, client: OpenAI) -> None:
        provider.answer_always(knowing)
        ask(client, FACT, extra_headers={"X-Reservoir-Store": "off"})
        assert ask(client, QUESTION) == "I do not know."
        ask(client, FACT)
        assert ask(client, QUESTION, extra_headers={"X-Reservoir-Recall": "off"}) == "I do not know."
        assert provider.last.messages == [{"role": "user", "content": QUESTION}]
        assert ask(client, QUESTION) == "Your cat is called Miso."
        assert not [name for name, _ in provider.last.headers if name.lower().startswith("x-reservoir")]

    def test_the_question_stays_when_the_provider_fails(self, provider: FakeProvider, client: OpenAI) -> None:
        provider.answer(Answer(500, body=error_body("It broke.", kind="server_error")))
        with pytest.raises(openai.InternalServerError):
            ask(client, FACT)
        provider.answer_always(knowing)
        assert ask(client, QUESTION) == "Your cat is called Miso."


class TestStreaming:
    def test_a_stream_arrives_as_it_is_sent(self, provider: FakeProvider, client: OpenAI) -> None:
        gate = Gate()
        events = stream_events("Once upon a time")
        provider.answer(Answer(200, [("Content-Type", "text/event-stream")], [*events[:3], gate, *events[3:]]))
        chunks = iter(
            client.chat.completions.create(
                model="gpt-4", messages=[{"role": "user", "content": "A story"}], stream=True
            )
        )
        first = [next(chunks).choices[0].delta.content for _ in range(3)]
        assert first == ["", "Once", " upon"]
        assert gate.reached.is_set()
        gate.open()
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == " a time"

    def test_a_stream_has_the_providers_bytes(
        self, server: Server, provider: FakeProvider, scope: tuple[str, str]
    ) -> None:
        events = [b": a comment\n\n", *stream_events("Zoë 🤖", usage=True)]
        provider.answer(Answer(200, [("Content-Type", "text/event-stream")], events))
        answer = httpx.post(
            f"{server.base_url(*scope)}/chat/completions",
            json={"model": "gpt-4", "stream": True, "messages": [{"role": "user", "content": "Hi"}]},
        )
        assert answer.content == b"".join(events)

    def test_a_streamed_answer_is_remembered(self, provider: FakeProvider, client: OpenAI) -> None:
        provider.answer(stream_answer("Your cat is called Miso, I think."))
        list(
            client.chat.completions.create(
                model="gpt-4", messages=[{"role": "user", "content": "Guess my cat's name"}], stream=True
            )
        )
        provider.answer_always(knowing)
        assert ask(client, QUESTION) == "Your cat is called Miso."

    def test_a_client_that_leaves_stops_the_provider(self, provider: FakeProvider, client: OpenAI) -> None:
        gate = Gate()
        events = stream_events("Your cat is called Miso", done=False)
        provider.answer(Answer(200, [("Content-Type", "text/event-stream")], [*events[:7], gate]))
        stream = client.chat.completions.create(
            model="gpt-4", messages=[{"role": "user", "content": "Guess my cat's name"}], stream=True
        )
        for _ in range(6):
            next(stream)
        stream.close()
        left = time.monotonic()
        assert provider.last.gone.wait(300)
        assert provider.last.gone_at is not None
        assert provider.last.gone_at - left < 10
        provider.answer_always(knowing)
        deadline = time.monotonic() + 300  # the partial answer is stored after the client has left
        while (answer := ask(client, QUESTION)) != "Your cat is called Miso." and time.monotonic() < deadline:
            time.sleep(0.1)
        assert answer == "Your cat is called Miso.", "the partial answer is kept"


class TestARestart:
    def test_a_server_remembers_after_being_killed(
        self, start_server: StartServer, provider: FakeProvider, scope: tuple[str, str]
    ) -> None:
        server = start_server()
        with OpenAI(base_url=server.base_url(*scope), api_key="sk", max_retries=0) as client:
            ask(client, FACT)
            server.restart()
            provider.answer_always(knowing)
            assert ask(client, QUESTION) == "Your cat is called Miso."

    def test_the_first_start_makes_a_login_that_no_log_has(self, start_server: StartServer) -> None:
        server = start_server()
        login = server.home / "admin_login"
        assert login.stat().st_mode & 0o777 == 0o600
        password = login.read_text().split()[-1]
        assert f"admin login  user admin  password in {login}" in server.log
        assert f"http://localhost:{server.port}/admin/" in server.log
        with httpx.Client(base_url=server.url, follow_redirects=True) as browser:
            page = browser.get("/admin/login/")
            token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)
            assert token
            form = {"username": "admin", "password": password, "csrfmiddlewaretoken": token[1]}
            assert browser.post("/admin/login/?next=/admin/", data=form).url.path == "/admin/"
            assert "sessionid" in browser.cookies
        server.stop()
        server.start()
        assert password not in server.log
        assert server.log.count("First start") == 1

    def test_a_running_stream_finishes_after_sigterm(
        self, start_beside: StartServer, provider: FakeProvider, scope: tuple[str, str]
    ) -> None:
        server = start_beside()
        gate = Gate()
        events = stream_events("Your cat is called Miso.")
        provider.answer(Answer(200, [("Content-Type", "text/event-stream")], [*events[:3], gate, *events[3:]]))
        with OpenAI(base_url=server.base_url(*scope), api_key="sk", max_retries=0) as client:
            stream = client.chat.completions.create(
                model="gpt-4", messages=[{"role": "user", "content": "Guess my cat's name"}], stream=True
            )
            next(stream)
            server.terminate()
            time.sleep(0.5)
            assert server.is_running
            gate.open()
            assert len(list(stream)) > 3
            server.stop()
            server.start()
            provider.answer_always(knowing)
            assert ask(client, QUESTION) == "Your cat is called Miso."

    def test_a_stopped_server_stops_its_postgresql(self, start_server: StartServer) -> None:
        server = start_server()
        where = embedded_location(server.home)
        conninfo = make_conninfo(host=where.host, port=where.port, user=where.user, dbname=where.dbname)
        psycopg.connect(conninfo).close()
        server.stop()
        assert not (server.home / "postgres" / "data" / "postmaster.pid").exists()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(conninfo)


class TestPassingThrough:
    def test_models(self, client: OpenAI, provider: FakeProvider) -> None:
        assert "gpt-4" in [model.id for model in client.models.list()]
        assert provider.last.target == "/v1/models"

    def test_embeddings(self, client: OpenAI, provider: FakeProvider) -> None:
        vectors = client.embeddings.create(model="text-embedding-3-small", input=["one", "two"])
        assert [len(item.embedding) for item in vectors.data] == [1536, 1536]
        assert provider.last.json["input"] == ["one", "two"]

    @pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS"])
    def test_any_method_and_path_with_its_query(
        self, server: Server, provider: FakeProvider, scope: tuple[str, str], method: str
    ) -> None:
        answer = httpx.request(
            method, f"{server.base_url(*scope)}/files/a%2Fb?after=x&after=y%20z", headers={"X-Own": "Value"}
        )
        assert answer.status_code == 200
        assert provider.last.method == method
        assert provider.last.target == "/v1/files/a%2Fb?after=x&after=y%20z"
        assert provider.last.header("x-own") == "Value"

    def test_an_upload_arrives_as_it_was(self, server: Server, provider: FakeProvider, scope: tuple[str, str]) -> None:
        data = os.urandom(5 * 2**20)
        answer = httpx.post(
            f"{server.base_url(*scope)}/files", content=data, headers={"Content-Type": "audio/wav"}, timeout=300
        )
        assert answer.status_code == 200
        assert provider.last.body == data


class TestHeaders:
    def test_the_providers_headers_come_back_beside_ours(self, client: OpenAI, provider: FakeProvider) -> None:
        headers = [
            ("x-request-id", "req_7"),
            ("openai-organization", "org"),
            ("x-ratelimit-remaining-tokens", "5"),
            ("Set-Cookie", "session=tenant-1"),
            ("Access-Control-Allow-Origin", "*"),
        ]
        provider.answer(text_answer("Hi", headers=headers))
        answer = client.chat.completions.with_raw_response.create(
            model="gpt-4", messages=[{"role": "user", "content": "Hi"}]
        )
        for name, value in headers[:3]:
            assert answer.headers[name] == value
        assert "set-cookie" not in answer.headers
        assert "access-control-allow-origin" not in answer.headers
        assert re.fullmatch(r"[0-9a-f-]{32,36}", answer.headers["x-reservoir-trace-id"])
        assert answer.headers["x-reservoir-memory"] == "on"
        assert answer.headers["x-reservoir-memories"] == "0"
        assert answer.headers["x-reservoir-memory-tokens"] == "0"
        assert "dur=" in answer.headers["server-timing"]

    def test_cookies_are_not_forwarded_to_the_provider(self, client: OpenAI, provider: FakeProvider) -> None:
        provider.answer(text_answer("Hi", headers=[("Set-Cookie", "session=tenant-1")]))
        ask(client, "Hi")
        ask(client, "Hi again", extra_headers={"Cookie": "mine=1"})
        assert provider.last.header("cookie") is None

    def test_headers_count_what_was_added(self, client: OpenAI) -> None:
        ask(client, FACT)
        answer = client.chat.completions.with_raw_response.create(
            model="gpt-4", messages=[{"role": "user", "content": QUESTION}]
        )
        assert answer.headers["x-reservoir-memories"] == "2"
        assert int(answer.headers["x-reservoir-memory-tokens"]) > 10

    def test_the_memory_header_says_off_when_memory_is_off(self, client: OpenAI) -> None:
        answer = client.chat.completions.with_raw_response.create(
            model="gpt-4",
            messages=[{"role": "user", "content": "Hi"}],
            extra_headers={"X-Reservoir-Recall": "off"},
        )
        assert answer.headers["x-reservoir-memory"] == "off"


class TestErrors:
    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"[]",
            b'"text"',
            b"{}",
            b'{"model": "gpt-4", "messages": []}',
            b'{"model": "gpt-4", "messages": "Hi"}',
            b'{"model": "gpt-4", "messages": ["Hi"]}',
            b'{"model": 4, "messages": [{"role": "user", "content": "Hi"}]}',
            b'{"model": "gpt-4", "messages": [{"role": "", "content": "Hi"}]}',
            b"\xff\xfe",
        ],
    )
    def test_a_body_that_is_not_a_chat_is_refused(
        self, server: Server, provider: FakeProvider, scope: tuple[str, str], body: bytes
    ) -> None:
        answer = httpx.post(f"{server.base_url(*scope)}/chat/completions", content=body)
        assert answer.status_code == 400
        assert shape(answer) == {"message", "type", "param", "code"}
        assert provider.requests == []

    @pytest.mark.parametrize(
        ("path", "status"),
        [
            ("/v1/nothing", 404),
            ("/v1/partition/a/chat/completions", 404),
            ("/partition/a", 404),
            ("/v1/partition//instance/b/chat/completions", 400),
            ("/v1/partition/a/instance/%00/chat/completions", 400),
            (f"/v1/partition/a/instance/{'x' * 201}/chat/completions", 400),
        ],
    )
    def test_an_unknown_route_is_refused(self, server: Server, provider: FakeProvider, path: str, status: int) -> None:
        answer = httpx.post(
            f"{server.url}{path}", json={"model": "gpt-4", "messages": [{"role": "user", "content": "Hi"}]}
        )
        assert answer.status_code == status
        assert shape(answer) == {"message", "type", "param", "code"}
        assert provider.requests == []

    @pytest.mark.parametrize(
        "headers",
        [
            {"Host": "evil.example"},
            {"Origin": "https://evil.example"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Origin": "null"},
        ],
    )
    @pytest.mark.parametrize("path", ["/v1/partition/a/instance/b/models", "/admin/", "/nothing"])
    def test_foreign_web_origins_are_refused_on_every_route(
        self, server: Server, provider: FakeProvider, path: str, headers: dict[str, str]
    ) -> None:
        answer = httpx.get(f"{server.url}{path}", headers=headers)
        assert answer.status_code == 403
        assert shape(answer) == {"message", "type", "param", "code"}
        assert provider.requests == []

    def test_the_providers_errors_are_relayed_unchanged(self, client: OpenAI, provider: FakeProvider) -> None:
        provider.answer(Answer(429, [("Retry-After", "7")], error_body("Slow down.", code="rate_limit_exceeded")))
        with pytest.raises(openai.RateLimitError) as caught:
            ask(client, "Hi")
        assert caught.value.code == "rate_limit_exceeded"
        assert caught.value.response.headers["retry-after"] == "7"
        assert len(provider.requests) == 1, "nothing is sent twice"

    def test_a_message_larger_than_any_window_is_refused(self, client: OpenAI, provider: FakeProvider) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            ask(client, "word " * 9000)
        assert caught.value.code == "context_length_exceeded"
        assert re.search(r"8,?192", caught.value.message)
        assert re.search(r"9,?0\d\d", caught.value.message)
        assert provider.requests == []

    def test_an_unreachable_provider_is_a_502(self, client: OpenAI, provider: FakeProvider) -> None:
        provider.stop()
        try:
            with pytest.raises(openai.InternalServerError) as caught:
                ask(client, "Hi")
        finally:
            provider.start()
        assert caught.value.status_code == 502
        assert caught.value.code == "provider_unreachable"


class TestProbes:
    def test_live_and_ready(self, server: Server) -> None:
        assert httpx.get(f"{server.url}/live").status_code == 200
        ready = httpx.get(f"{server.url}/ready")
        assert ready.status_code == 200
        assert {"database", "migrations", "storing", "embedder", "recall"} <= set(ready.json())
        assert ready.json()["versions"]["postgresql"].startswith("18.") and ready.json()["versions"]["pgvector"]


def shape(answer: httpx.Response) -> set[str]:
    error: dict[str, Any] = answer.json()["error"]
    assert isinstance(error["message"], str)
    return set(error)
