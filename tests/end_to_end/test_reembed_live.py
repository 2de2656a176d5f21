"""A command, killed halfway and repeated, changes the embedding model of two servers that share the work."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import httpx

from reservoir_site.postgres_folder import embedded_location
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


def test_the_model_changes_under_two_running_servers(
    start_server: StartServer, scope: Scope, provider: FakeProvider, tmp_path: Path
) -> None:
    same = {"RESERVOIR_SECRET_KEY": "the same on both hosts"}
    server = start_server(same)
    where = embedded_location(server.home)
    url = f"host={where.host} port={where.port} user={where.user} dbname={where.dbname}"
    second = start_server(same, home=tmp_path / "second", database_url=url)
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
    ask(second, scope, [{"role": "user", "content": "Said meanwhile."}])
    output, _ = again.communicate(timeout=300)
    assert again.returncode == 0, output
    assert b"is in use" in output

    provider.reset()
    for each in (server, second):
        answer = httpx.get(f"{each.base_url(*scope)}/recall?query=fine", timeout=300, trust_env=False).json()
        assert answer["memory"] == "on"
    assert embedded(provider) == ["fine", "fine"], "both servers ask the new model"
    for number in range(6):
        ask((server, second)[number % 2], scope, [{"role": "user", "content": f"Said afterwards, {number}."}])
    deadline = time.monotonic() + 300
    while vectors(server, LENGTH) < 166:
        assert time.monotonic() < deadline, vectors(server, LENGTH)
        time.sleep(0.05)
    assert vectors(server, 384) == 0
    words = "SELECT count(*) AS n FROM conversations_message WHERE content <> '' AND embed_due IS NULL"
    assert store.rows(server, words)[0]["n"] == 166
    answers = Counter(text for text in embedded(provider) if text.startswith("You said: Said afterwards"))
    assert sorted(answers.values()) == [1] * 6, "the servers' workers share the answers, and do none twice"
    assert "from now on" in server.log and "from now on" in second.log


def embedded(provider: FakeProvider) -> list[str]:
    """The texts that the provider was asked to embed since it was reset."""
    bodies = [json.loads(request.body) for request in provider.requests if "embeddings" in request.path]
    return [text for body in bodies for text in body["input"]]
