"""A command, killed halfway and repeated, changes the embedding model of a running server."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import httpx

from tests.end_to_end import store
from tests.end_to_end.conftest import StartServer
from tests.fake_provider.provider import FakeProvider
from tests.server import ROOT, Server, clean_environment

Scope = tuple[str, str]
LENGTH = 16


def ask(server: Server, scope: Scope, messages: list[dict[str, str]]) -> None:
    body = {"model": "gpt-4", "messages": messages}
    url = f"{server.base_url(*scope)}/chat/completions"
    httpx.post(url, json=body, timeout=300, trust_env=False).raise_for_status()


def reembed(server: Server, spec: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "manage.py", "reembed", "--model", spec, "--dimensions", str(LENGTH), "--drop-old"],
        cwd=ROOT,
        env=clean_environment() | server.settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def vectors(server: Server, length: int) -> int:
    query = "SELECT count(DISTINCT message_id) AS n FROM conversations_embedding WHERE vector_dims(vector) = %s"
    count: int = store.rows(server, query, length)[0]["n"]
    return count


def test_the_model_changes_under_a_running_server(
    start_server: StartServer, scope: Scope, provider: FakeProvider
) -> None:
    server = start_server()
    talk = [{"role": ("user", "assistant")[at % 2], "content": f"Number {at} is a fine one."} for at in range(151)]
    ask(server, scope, talk)
    deadline = time.monotonic() + 300
    while vectors(server, 384) < 152:
        assert time.monotonic() < deadline
        time.sleep(0.05)

    spec = f"{provider.base_url}#text-embedding-3-tiny"
    killed = reembed(server, spec)
    while not vectors(server, LENGTH):
        assert time.monotonic() < deadline and killed.poll() is None, killed.communicate()
        time.sleep(0.005)
    killed.kill()
    killed.communicate()
    again = reembed(server, spec)
    ask(server, scope, [{"role": "user", "content": "Said meanwhile."}])
    output, _ = again.communicate(timeout=300)
    assert again.returncode == 0, output
    assert b"is in use" in output

    provider.reset()
    answer = httpx.get(f"{server.base_url(*scope)}/recall?query=fine", timeout=300, trust_env=False).json()
    asked = [json.loads(request.body)["input"] for request in provider.requests if "embeddings" in request.path]
    assert asked == [["fine"]], "the server asks the new model"
    assert answer["memory"] == "on"
    ask(server, scope, [{"role": "user", "content": "Said afterwards."}])
    deadline = time.monotonic() + 300
    while vectors(server, LENGTH) < 156:
        assert time.monotonic() < deadline, vectors(server, LENGTH)
        time.sleep(0.05)
    assert vectors(server, 384) == 0
    words = "SELECT count(*) AS n FROM conversations_message WHERE content <> '' AND embed_due IS NULL"
    assert store.rows(server, words)[0]["n"] == 156
    assert "from now on" in server.log
