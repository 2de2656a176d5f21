"""The fake provider agrees with the real `openai` library, so tests against the fake are valid."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import httpx
import openai
import pytest
from openai import OpenAI

from tests.fake_provider.answers import (
    Answer,
    Cut,
    Gate,
    Pause,
    Request,
    error_body,
    event,
    stream_answer,
    stream_events,
    text_answer,
)
from tests.fake_provider.provider import FakeProvider, black_hole, closed_port


@pytest.fixture
def client(provider: FakeProvider) -> Iterator[OpenAI]:
    with OpenAI(base_url=provider.base_url, api_key="sk-test", max_retries=0, timeout=300) as client:
        yield client


def ask(client: OpenAI, text: str) -> str | None:
    chat = client.chat.completions.create(model="gpt-4", messages=[{"role": "user", "content": text}])
    return chat.choices[0].message.content


def stream(client: OpenAI, text: str) -> list[str]:
    chunks = client.chat.completions.create(model="gpt-4", messages=[{"role": "user", "content": text}], stream=True)
    return [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]


class TestTheApi:
    def test_a_chat_is_answered_and_recorded(self, provider: FakeProvider, client: OpenAI) -> None:
        assert ask(client, "Hello") == "You said: Hello"
        assert provider.last.method == "POST"
        assert provider.last.target == "/v1/chat/completions"
        assert provider.last.header("authorization") == "Bearer sk-test"
        assert provider.last.messages == [{"role": "user", "content": "Hello"}]
        assert provider.last.finished.wait(300)

    def test_a_streamed_chat_adds_up_to_the_same(self, client: OpenAI) -> None:
        words = stream(client, "Hello there")
        assert "".join(words) == "You said: Hello there"
        assert len(words) > 4

    def test_a_stream_brings_usage_when_asked(self, client: OpenAI) -> None:
        chunks = list(
            client.chat.completions.create(
                model="gpt-4",
                messages=[{"role": "user", "content": "Hello"}],
                stream=True,
                stream_options={"include_usage": True},
            )
        )
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.total_tokens == 12
        assert not chunks[-1].choices

    @pytest.mark.parametrize("streamed", [False, True])
    def test_several_choices(self, client: OpenAI, streamed: bool) -> None:
        messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]
        if streamed:
            chunks = client.chat.completions.create(model="gpt-4", messages=messages, n=2, stream=True)
            indexes = {choice.index for chunk in chunks for choice in chunk.choices}
        else:
            chat = client.chat.completions.create(model="gpt-4", messages=messages, n=2)
            indexes = {choice.index for choice in chat.choices}
        assert indexes == {0, 1}

    def test_models(self, client: OpenAI) -> None:
        assert "gpt-4" in [model.id for model in client.models.list()]
        assert client.models.retrieve("gpt-4o").id == "gpt-4o"

    @pytest.mark.parametrize("encoding", [None, "float"])
    def test_embeddings_depend_on_the_text_alone(self, client: OpenAI, encoding: None) -> None:
        answer = client.embeddings.create(
            model="text-embedding-3-small",
            input=["one", "two", "one"],
            dimensions=64,
            **({"encoding_format": encoding} if encoding else {}),
        )
        first, second, third = (item.embedding for item in answer.data)
        assert len(first) == 64
        assert first == third != second

    def test_the_library_raises_on_an_error(self, provider: FakeProvider, client: OpenAI) -> None:
        provider.answer(Answer(429, [("Retry-After", "7")], error_body("Slow down.", code="rate_limit_exceeded")))
        with pytest.raises(openai.RateLimitError) as caught:
            ask(client, "Hello")
        assert caught.value.code == "rate_limit_exceeded"
        assert caught.value.response.headers["retry-after"] == "7"

    def test_the_library_raises_on_an_error_frame_in_a_stream(self, provider: FakeProvider, client: OpenAI) -> None:
        frame = event({"error": {"message": "It broke.", "type": "server_error"}})
        provider.answer(stream_answer("Hello", done=False, tail=[frame]))
        with pytest.raises(openai.APIError, match=r"It broke\."):
            stream(client, "Hello")

    def test_other_paths_are_echoed(self, provider: FakeProvider) -> None:
        answer = httpx.put(f"{provider.base_url}/files/a%2Fb?x=1&x=2", content=b"data", headers={"X-A": "b"})
        assert answer.json()["target"] == "/v1/files/a%2Fb?x=1&x=2"
        assert answer.json()["body"] == "data"
        assert ["X-A", "b"] in answer.json()["headers"]


class TestTheScript:
    def test_answers_come_in_order_and_then_the_default(self, provider: FakeProvider, client: OpenAI) -> None:
        provider.answer(text_answer("one"), lambda request: text_answer(request.messages[0]["content"].upper()))
        assert [ask(client, "two"), ask(client, "two"), ask(client, "two")] == ["one", "TWO", "You said: two"]

    def test_a_function_answers_until_it_is_removed(self, provider: FakeProvider, client: OpenAI) -> None:
        provider.answer_always(lambda _request: text_answer("always"))
        assert [ask(client, "a"), ask(client, "b")] == ["always", "always"]
        provider.reset()
        assert ask(client, "a") == "You said: a"

    def test_repeated_headers_are_kept(self, provider: FakeProvider) -> None:
        provider.answer(text_answer("x", headers=[("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]))
        answer = httpx.post(f"{provider.base_url}/chat/completions", json={"messages": []})
        assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]

    def test_a_stream_split_at_odd_bytes_is_the_same_stream(self, provider: FakeProvider, client: OpenAI) -> None:
        provider.answer(stream_answer("Zoë 🤖 grüßt", split=3))
        assert "".join(stream(client, "Hello")) == "Zoë 🤖 grüßt"

    def test_a_slow_stream_arrives_as_it_is_sent(self, provider: FakeProvider) -> None:
        provider.answer(stream_answer("a b c d e", delay=0.05))
        with httpx.stream("POST", f"{provider.base_url}/chat/completions", json={}) as answer:
            times = [time.monotonic() for _ in answer.iter_bytes()]
        assert times[-1] - times[0] > 0.2

    @pytest.mark.parametrize(("cut", "error"), [(Cut.FIN, httpx.RemoteProtocolError), (Cut.RST, httpx.ReadError)])
    def test_a_cut_stream_delivers_what_came_before(
        self, provider: FakeProvider, cut: Cut, error: type[Exception]
    ) -> None:
        provider.answer(stream_answer("one two", done=False, tail=[cut]))
        received = b""
        with (
            pytest.raises(error),
            httpx.stream("POST", f"{provider.base_url}/chat/completions", json={}) as answer,
        ):
            for data in answer.iter_bytes():
                received += data
        assert b" two" in received
        assert b"[DONE]" not in received

    @pytest.mark.parametrize("cut", list(Cut))
    def test_a_cut_before_the_head(self, provider: FakeProvider, cut: Cut) -> None:
        provider.answer(Answer(before=[cut]))
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{provider.base_url}/models")

    def test_hanging_before_the_head_until_released(self, provider: FakeProvider) -> None:
        gate = Gate()
        provider.answer(Answer(before=[gate]))
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(f"{provider.base_url}/models", timeout=1)
        assert gate.reached.is_set()
        assert provider.last.gone.wait(300), "the client left, and that was not seen"
        provider.answer(Answer(before=[gate], body=b"late"))
        gate.open()
        assert httpx.get(f"{provider.base_url}/models").text == "late"

    def test_a_client_that_leaves_is_seen_at_once(self, provider: FakeProvider) -> None:
        gate = Gate()
        provider.answer(Answer(body=[b"first", gate, b"never"]))
        with httpx.stream("GET", f"{provider.base_url}/models") as answer:
            assert next(answer.iter_bytes()) == b"first"
            left = time.monotonic()
        assert provider.last.gone.wait(300)
        assert provider.last.gone_at is not None
        assert provider.last.gone_at - left < 10
        assert not provider.last.finished.is_set()

    def test_a_length_that_lies(self, provider: FakeProvider) -> None:
        provider.answer(Answer(body=b"short", content_length=100))
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(f"{provider.base_url}/models")

    def test_http_1_0_ends_by_closing(self, provider: FakeProvider) -> None:
        provider.answer(Answer(http="HTTP/1.0", body=[b"some ", b"body"]))
        answer = httpx.get(f"{provider.base_url}/models")
        assert (answer.http_version, answer.text) == ("HTTP/1.0", "some body")

    def test_an_answer_that_is_not_http(self, provider: FakeProvider) -> None:
        provider.answer(Answer(framing="none", body=b"SSH-2.0-OpenSSH_9.6\r\n"))
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(f"{provider.base_url}/models")

    def test_an_answer_before_the_body_is_read(self, provider: FakeProvider) -> None:
        provider.answer(Answer(413, body=error_body("Too large."), early=True))
        with socket.create_connection(("127.0.0.1", provider.port)) as raw:
            raw.sendall(b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nonly this")
            assert raw.recv(20).startswith(b"HTTP/1.1 413")

    def test_a_large_answer_goes_only_as_fast_as_it_is_read(self, provider: FakeProvider) -> None:
        size = 100 * 2**20
        piece = b"x" * 2**20
        provider.answer(Answer(body=(piece for _ in range(100)), content_length=size, framing="length"))
        with httpx.stream("GET", f"{provider.base_url}/models") as answer:
            time.sleep(0.3)
            assert provider.last.sent < size / 2, "it sent more than the client could have received"
            assert sum(len(data) for data in answer.iter_raw()) == size

    def test_a_large_upload_is_counted_and_hashed_but_not_kept(self, provider: FakeProvider) -> None:
        pieces = (b"y" * 2**20 for _ in range(80))
        answer = httpx.post(f"{provider.base_url}/files", content=pieces, timeout=300)
        assert answer.json()["size"] == 80 * 2**20
        assert len(provider.last.body) < 80 * 2**20

    def test_a_pause(self, provider: FakeProvider) -> None:
        provider.answer(Answer(before=[Pause(0.1)]))
        start = time.monotonic()
        httpx.get(f"{provider.base_url}/models")
        assert time.monotonic() - start >= 0.1

    def test_a_restart_keeps_the_address(self, provider: FakeProvider) -> None:
        base_url = provider.base_url
        provider.stop()
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{base_url}/models")
        provider.start()
        assert httpx.get(f"{base_url}/models").status_code == 200

    def test_a_keep_alive_connection_is_used_again(self, provider: FakeProvider) -> None:
        with httpx.Client() as client:
            for _ in range(3):
                client.get(f"{provider.base_url}/models")
        assert [request.connection for request in provider.requests] == [1, 1, 1]

    def test_a_mistake_in_the_script_is_raised(self) -> None:
        def mistaken(request: Request) -> Answer:
            raise LookupError(request.target)

        with FakeProvider() as provider:
            provider.answer(mistaken)
            with pytest.raises(httpx.TransportError):
                httpx.get(f"{provider.base_url}/models")
        assert [type(error) for error in provider.errors] == [LookupError]


class TestUnreachable:
    def test_a_closed_port_refuses(self) -> None:
        with closed_port() as port, pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{port}/")

    def test_a_black_hole_never_connects(self) -> None:
        with black_hole() as port, pytest.raises(httpx.ConnectTimeout):
            httpx.get(f"http://127.0.0.1:{port}/", timeout=0.3)


def test_events_end_as_the_protocol_says() -> None:
    assert stream_events("Hi")[-1] == b"data: [DONE]\n\n"
