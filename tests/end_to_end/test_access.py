"""Access keys on the real server: who is let in, to what, and what a provider sees of it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from openai import OpenAI

from access.key_format import make
from access.rights import Right
from reservoir_site.postgres_folder import program
from tests.end_to_end.asking import says
from tests.end_to_end.conftest import StartServer
from tests.end_to_end.confusion import attempts
from tests.end_to_end.keys import make_key, revoke
from tests.end_to_end.store import rows
from tests.fake_provider.provider import FakeProvider
from tests.faults.breaking import postgres_down
from tests.server import PATIENCE, PATIENT, ROOT, Server, clean_environment, free_port

HTTP = httpx.Client(trust_env=False, timeout=PATIENCE)
OWN = "sk-the-apps-own"
SECRET = "Zephyrine the cat sleeps on the piano"
A, B = ("acme", "alice"), ("beta", "bob")


@pytest.fixture(scope="module")
def closed(session_provider: FakeProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose first key was made while it ran, with a conversation in each of two partitions."""
    home = tmp_path_factory.mktemp("closed")
    with Server(home, session_provider.base_url, settings=PATIENT) as server:
        for partition, instance in (A, B):
            assert chat(server, (partition, instance), None, f"{SECRET} in {partition}").status_code == 200
        first = manage(server, "key", "create", "first", "--partition", "*", "--right", "read").strip()
        eventually(lambda: chat(server, A, None).status_code == 401)
        assert ask(server, "GET", "/v1/memory/partitions", first).status_code == 200
        yield server


@pytest.fixture(scope="module", autouse=True)
def connections() -> Iterator[None]:
    yield
    HTTP.close()


@pytest.fixture(scope="module")
def keys(closed: Server) -> dict[str, str]:
    """A key of each app, with every right."""
    return {partition: make_key(closed, [partition]) for partition, _ in (A, B)}


def manage(server: Server, *arguments: str) -> str:
    command = [sys.executable, "manage.py", *arguments]
    environment = clean_environment() | server.settings
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout


def eventually(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def ask(
    server: Server,
    method: str,
    path: str,
    key: str | None = None,
    headers: dict[str, str] | None = None,
    body: Any = None,
) -> httpx.Response:
    """A request with a key as an OpenAI client sends it, or with these headers."""
    sent = headers if headers is not None else {"Authorization": f"Bearer {key}"} if key else {}
    return HTTP.request(method, f"{server.url}{path}", headers=sent, json=body)


def base(scope: tuple[str, str]) -> str:
    return f"/v1/partition/{quote(scope[0], safe='')}/instance/{quote(scope[1], safe='')}"


def chat(
    server: Server, scope: tuple[str, str], key: str | None, text: str = "Where does the cat sleep?"
) -> httpx.Response:
    return ask(server, "POST", f"{base(scope)}/chat/completions", key, body=says(text))


def routes(scope: tuple[str, str], message: int = 1, trace: str = str(uuid.UUID(int=1))) -> list[tuple[str, str]]:
    """Every form of route that leads to a scope, without those that change anything for good."""
    partition, instance = (quote(name, safe="") for name in scope)
    spelled = f"/v1/partition/{partition}/instance/{instance}"
    upper = "".join(f"%{ord(c):02X}" for c in scope[0])
    in_scope = (
        "recall?query=cat",
        "command/view/9",
        "command/search/9?term=cat",
        "models",
        "v1/models",
        "//models",
        "",
    )
    both = f"partition={partition}&instance={instance}"
    return [
        ("POST", f"{spelled}/chat/completions"),
        ("POST", f"{spelled}/v1/chat/completions"),
        ("GET", f"{spelled}/chat/completions"),
        ("POST", f"/partition/{partition}/instance/{instance}/v1/chat/completions"),
        ("POST", f"/v1/partition/{upper}/instance/{instance}/chat/completions"),
        *(("GET", f"{spelled}/{rest}") for rest in in_scope),
        ("POST", f"{spelled}/recall"),
        ("POST", f"{spelled}/mcp"),
        ("POST", f"/partition/{partition}/instance/{instance}/v1/mcp"),
        ("PUT", f"{spelled}/recall"),
        ("POST", f"{spelled}/embeddings"),
        ("POST", f"{spelled}/responses"),
        ("POST", f"{spelled}/messages"),
        ("DELETE", f"{spelled}/files/x"),
        *(("GET", f"/v1/memory/{what}?{both}") for what in ("messages", "export")),
        ("GET", f"/v1/memory/nearest?text=cat&{both}"),
        ("GET", f"/v1/memory/messages?partition={partition}"),
        ("GET", f"/v1/memory/export?partition={partition}"),
        ("GET", f"/v1/memory/instances?partition={partition}"),
        ("DELETE", f"/v1/memory/partitions?partition={partition}&dry_run=true"),
        ("DELETE", f"/v1/memory/instances?{both}&dry_run=true"),
        ("DELETE", f"/v1/memory/messages?{both}&search=cat&dry_run=true"),
        ("DELETE", f"/v1/memory/messages?id={message}&{both}&dry_run=true"),
        ("GET", f"/v1/memory/messages/{message}"),
        ("DELETE", f"/v1/memory/messages/{message}?dry_run=true"),
        ("GET", f"/v1/memory/exchanges/{trace}"),
    ]


ALWAYS = [
    ("GET", "/v1/docs"),
    ("GET", "/v1/openapi.json"),
    ("GET", "/v1/memory/partitions"),
    ("GET", "/v1/memory/messages"),
    ("GET", "/v1/memory/nearest?text=cat"),
    ("GET", "/v1/memory/export"),
    ("DELETE", "/v1/memory/messages?search=cat&dry_run=true"),
    ("GET", "/v1/nothing"),
    ("GET", "/partition/x"),
]


# --- who is let in ---


def test_one_401_for_everybody_without_a_key_on_every_route(closed: Server, provider: FakeProvider) -> None:
    wrong: list[str | None] = [
        None,
        OWN,
        "rsv_",
        make("app").text,
        make("app").text[:-1] + "x",
        make_key(closed, ["*"], lives="-1 second"),
        make_key(closed, ["*"], revoked=True),
    ]
    bodies = set()
    for method, path in [*routes(A), *ALWAYS]:
        answers = [ask(closed, method, path, key) for key in wrong]
        assert {answer.status_code for answer in answers} == {401}
        assert len({str(sorted(answer.headers.items())) for answer in answers}) == 1
        assert len({answer.content for answer in answers}) == 1
        bodies.add(answers[0].content)
    errors = [json.loads(body)["error"] for body in bodies]  # one in the shape of each API
    assert len({error["message"] for error in errors}) == 1
    assert [error["code"] for error in errors if "code" in error] == ["invalid_api_key"]
    assert not provider.requests


def test_the_secret_of_another_key_with_the_same_id_is_refused(closed: Server, keys: dict[str, str]) -> None:
    forged = make("app", keys["acme"].split("_")[2]).text
    assert chat(closed, A, keys["acme"]).status_code == 200
    assert chat(closed, A, forged).status_code == 401


def test_a_revoked_key_is_refused_soon_although_nobody_told_the_server(closed: Server) -> None:
    key = make_key(closed, ["acme"])
    assert chat(closed, A, key).status_code == 200
    revoke(closed, key)
    eventually(lambda: chat(closed, A, key).status_code == 401)


def test_two_different_keys_or_one_in_the_url_are_refused(closed: Server, keys: dict[str, str]) -> None:
    both = {"Authorization": f"Bearer {keys['acme']}", "X-Reservoir-Key": keys["beta"]}
    answer = ask(closed, "GET", f"{base(A)}/models", headers=both)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "ambiguous_key")
    answer = ask(closed, "GET", f"{base(A)}/models?key={keys['acme']}", keys["acme"])
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "key_in_url")


def test_the_last_use_is_noted(closed: Server) -> None:
    key = make_key(closed, ["acme"])
    assert chat(closed, A, key).status_code == 200
    query = "SELECT last_used FROM access_accesskey WHERE public_id = %s AND last_used IS NOT NULL"
    eventually(lambda: rows(closed, query, key.split("_")[2]))


def test_an_exchange_names_its_key(closed: Server) -> None:
    key = make_key(closed, ["acme"])
    assert chat(closed, A, key, "Which key was that?").status_code == 200
    query = "SELECT count(*) AS number FROM conversations_exchange WHERE key_id = %s AND ended = 'answered'"
    assert rows(closed, query, key.split("_")[2])[0]["number"] == 1


def test_known_keys_work_while_the_database_is_gone_and_others_get_503(closed: Server) -> None:
    known, expired, unread = (
        make_key(closed, ["acme"]),
        make_key(closed, ["acme"], lives="2 s"),
        make_key(closed, ["acme"]),
    )
    assert chat(closed, A, known).status_code == 200
    assert chat(closed, A, expired).status_code in (200, 401)
    with postgres_down(closed.home):
        for _ in range(3):
            assert chat(closed, A, known).status_code == 200
            assert chat(closed, B, known).status_code == 403
            assert chat(closed, A, None).status_code == 401
            answer = chat(closed, A, unread)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            time.sleep(1.5)
        assert chat(closed, A, expired).status_code == 401
    closed.wait_until_ready()
    eventually(lambda: chat(closed, A, unread).status_code == 200)


# --- what a provider sees ---


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer {}"},
        {"authorization": "bearer {}"},
        {"x-api-key": "{}"},
        {"X-Reservoir-Key": "{}"},
        {"X-Reservoir-Key": "{}", "Authorization": f"Bearer {OWN}"},
        {"x-api-key": "{}", "Authorization": f"Bearer {OWN}"},
        {"X-Reservoir-Key": "{}", "x-api-key": OWN},
        {"X-Reservoir-Key": "{}", "Authorization": f"Bearer {OWN}", "X-Note": "see {}", "Cookie": "k={}"},
    ],
)
def test_no_provider_sees_a_key_and_the_apps_own_travels(
    closed: Server, keys: dict[str, str], provider: FakeProvider, headers: dict[str, str]
) -> None:
    sent = {name: value.format(keys["acme"]) for name, value in headers.items()}
    paths = ("chat/completions", "v1/chat/completions", "embeddings", "responses", "messages", "files")
    for method, path in [("GET", "models"), *(("POST", path) for path in paths)]:
        ask(closed, method, f"{base(A)}/{path}", headers=sent, body=says("Hello") if method == "POST" else None)
    assert len(provider.requests) == 7
    for request in provider.requests:
        seen = {name.lower(): value for name, value in request.headers}
        assert "rsv_" not in str(seen)
        assert "rsv_" not in str(request.path)
        for name in ("Authorization", "x-api-key"):
            if headers.get(name, "{}") != "{}" and OWN in headers[name]:
                assert OWN in seen[name.lower()]


def test_the_real_client_needs_only_its_key(closed: Server, keys: dict[str, str]) -> None:
    client = OpenAI(base_url=f"{closed.url}{base(A)}", api_key=keys["acme"], max_retries=0)
    said = client.chat.completions.create(model="gpt-4", messages=[{"role": "user", "content": "Hello"}])
    assert said.choices[0].message.content


# --- what is reached ---


def test_a_key_learns_nothing_of_another_apps_partition(closed: Server, keys: dict[str, str]) -> None:
    theirs = rows(closed, "SELECT m.id, e.trace_id FROM conversations_message m JOIN conversations_exchange e "
                          "ON e.id = m.exchange_id WHERE m.content LIKE %s", f"{SECRET} in beta")  # fmt: skip
    message, trace = theirs[0]["id"], str(theirs[0]["trace_id"])
    for made_up, scope in ((False, B), (True, ("nothing", "nobody"))):
        ids = (2**40, str(uuid.uuid4())) if made_up else (message, trace)
        for method, path in [*routes(scope, *ids), *ALWAYS]:
            answer = ask(closed, method, path, keys["acme"], body=says("cat") if method == "POST" else None)
            assert "in beta" not in answer.text, path
            assert "beta" not in answer.text or scope[0] in path, path
            if (method, path) not in ALWAYS:
                assert answer.status_code in (403, 404) or answer.json().get("messages") == 0, (path, answer.text)


def test_no_confusion_of_scopes_tells_a_key_anything(
    closed: Server, keys: dict[str, str], provider: FakeProvider
) -> None:
    theirs = rows(closed, "SELECT m.id, e.trace_id FROM conversations_message m JOIN conversations_exchange e "
                          "ON e.id = m.exchange_id WHERE m.content LIKE %s", f"{SECRET} in beta")  # fmt: skip
    message, trace = theirs[0]["id"], str(theirs[0]["trace_id"])
    reads = [right for right in Right if right not in (Right.FORGET,)]
    wrong = [
        keys["acme"],
        make_key(closed, ["acme"], rights=reads),
        make_key(closed, ["acme/*", "acme"]),
        make_key(closed, ["bet", "beta2", "BETA", "beta/*"]),
        make_key(closed, ["beta"], ["alice", "bob/*", "bo"]),
        make_key(closed, ["beta"], lives="-1 second"),
        make_key(closed, ["beta"], revoked=True),
        make("app").text,
        OWN,
        "rsv_",
        keys["beta"][:-1] + ("x" if keys["beta"][-1] != "x" else "y"),
    ]
    carriers = ("Authorization", "x-api-key", "X-Reservoir-Key")
    made = list(attempts(B, [*routes(B, message, trace), *ALWAYS], [message, message + 1]))
    count = 0
    for key, (at, attempt) in product(wrong, enumerate(made)):
        carrier = carriers[at % 3]
        sent = attempt.headers | {carrier: f"Bearer {key}" if carrier == "Authorization" else key}
        path = attempt.path.replace("\\", "%5C")
        answer = ask(closed, attempt.method, path, headers=sent, body=attempt.body)
        count += 1
        seen = answer.text + str(answer.headers)
        told = seen.replace(attempt.path, "")
        assert "in beta" not in seen and trace not in told, (attempt, seen)
        assert answer.status_code < 500, (attempt, seen)
        if answer.status_code == 200 and attempt.method in ("GET", "DELETE"):
            assert '"partition":"beta"' not in seen.replace(" ", "") and '"name":"beta"' not in seen.replace(" ", "")
    print(f"{count} requests of scope confusion, 0 leaks")
    assert count >= 1_686
    assert not any("in beta" in request.body.decode(errors="replace") for request in provider.requests)


def test_refusals_are_the_same_whether_the_scope_exists_or_not(closed: Server, keys: dict[str, str]) -> None:
    theirs = rows(closed, "SELECT m.id, e.trace_id FROM conversations_message m JOIN conversations_exchange e "
                          "ON e.id = m.exchange_id WHERE m.content LIKE %s", f"{SECRET} in beta")  # fmt: skip
    real = routes(B, theirs[0]["id"], str(theirs[0]["trace_id"]))
    made_up = routes(("none", "bob"), 2**40, str(uuid.uuid4()))
    for (method, path), (_, other) in zip(real, made_up, strict=True):
        answers = [ask(closed, method, each, keys["acme"]) for each in (path, other)]
        assert answers[0].status_code == answers[1].status_code, path
        assert answers[0].content == answers[1].content, path


def test_the_own_partition_is_reached_on_every_route(closed: Server, keys: dict[str, str]) -> None:
    mine = rows(closed, "SELECT m.id, e.trace_id FROM conversations_message m JOIN conversations_exchange e "
                        "ON e.id = m.exchange_id WHERE m.content LIKE %s", f"{SECRET} in acme")  # fmt: skip
    for method, path in routes(A, mine[0]["id"], str(mine[0]["trace_id"])):
        answer = ask(closed, method, path, keys["acme"], body=says("cat") if method == "POST" else None)
        assert answer.status_code not in (401, 403), path
    partitions = ask(closed, "GET", "/v1/memory/partitions", keys["acme"]).json()["data"]
    assert [each["name"] for each in partitions] == ["acme"]
    listed = ask(closed, "GET", "/v1/memory/messages", keys["acme"]).json()["data"]
    assert {each["partition"] for each in listed} == {"acme"}
    near = ask(closed, "GET", f"/v1/memory/nearest?text={quote(SECRET)}", keys["acme"]).json()["data"]
    assert {each["partition"] for each in near} <= {"acme"}
    assert SECRET in ask(closed, "GET", "/v1/memory/export?partition=acme", keys["acme"]).text


def test_a_key_of_some_instances_sees_only_those(closed: Server) -> None:
    for instance in ("team/ann", "team/ben", "teams", "lone"):
        everything = make_key(closed, ["*"])
        assert chat(closed, ("many", instance), everything, f"I am {instance}").status_code == 200
    key = make_key(closed, ["many"], ["team/*"])
    assert chat(closed, ("many", "team/new"), key).status_code == 200
    for refused in ("teams", "lone", "team", "TEAM/ann"):
        assert chat(closed, ("many", refused), key).status_code == 403
    found = ask(closed, "GET", "/v1/memory/instances?partition=many", key).json()["data"]
    assert [each["name"] for each in found] == ["team/ann", "team/ben", "team/new"]
    (counted,) = ask(closed, "GET", "/v1/memory/partitions", key).json()["data"]
    assert (counted["name"], counted["instance_count"]) == ("many", 3)
    for path in ("messages?partition=many", "messages", "nearest?text=I am lone"):
        assert {each["instance"][:5] for each in ask(closed, "GET", f"/v1/memory/{path}", key).json()["data"]} == {
            "team/"
        }
    for method, path in [
        ("GET", "export?partition=many"),
        ("DELETE", "partitions?partition=many"),
        ("DELETE", "messages?partition=many&search=lone"),
        ("DELETE", "messages?search=lone"),
        ("DELETE", "instances?partition=many&instance=lone"),
    ]:
        assert ask(closed, method, f"/v1/memory/{path}", key).status_code == 403


def test_ids_of_others_are_not_forgotten_and_count_as_missing(closed: Server, keys: dict[str, str]) -> None:
    ids = {row["id"] for row in rows(closed, "SELECT id FROM conversations_message")}
    gone = make_key(closed, ["gone"])
    assert chat(closed, ("gone", "x"), gone).status_code == 200
    everything = "&".join(f"id={one}" for one in [*ids, *range(max(ids) + 1, max(ids) + 50)])
    assert ask(closed, "DELETE", f"/v1/memory/messages?{everything}", gone).status_code == 200
    after = {row["id"] for row in rows(closed, "SELECT id FROM conversations_message")}
    assert ids <= after


# --- rights ---


@pytest.mark.parametrize(
    ("method", "path", "right"),
    [
        ("POST", f"{base(A)}/chat/completions", Right.COMPLETE),
        ("GET", f"{base(A)}/models", Right.COMPLETE),
        ("GET", f"{base(A)}/recall?query=cat", Right.RECALL),
        ("GET", f"{base(A)}/command/view/3", Right.READ),
        ("GET", "/v1/memory/partitions", Right.READ),
        ("GET", "/v1/memory/messages?partition=acme", Right.READ),
        ("DELETE", "/v1/memory/messages?partition=acme&search=nothing&dry_run=true", Right.FORGET),
        ("GET", "/v1/memory/export?partition=acme", Right.EXPORT),
    ],
)
def test_a_route_takes_its_right_alone(closed: Server, method: str, path: str, right: Right) -> None:
    with_it = make_key(closed, ["acme"], rights=[right])
    without = make_key(closed, ["acme"], rights=[each for each in Right if each != right])
    body = says("Hello") if method == "POST" else None
    assert ask(closed, method, path, with_it, body=body).status_code == 200
    refused = ask(closed, method, path, without, body=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "right_missing")
    assert right in refused.json()["error"]["message"]


def test_what_the_provider_keeps_for_all_needs_a_right_of_its_own(closed: Server, provider: FakeProvider) -> None:
    key = make_key(closed, ["acme"], rights=[Right.COMPLETE])
    for method, path in [
        ("GET", "files"),
        ("GET", "v1/files/file-1/content"),
        ("GET", "chat/completions"),
        ("GET", "chat/completions/chatcmpl-1/messages"),
        ("GET", "responses/resp_1"),
        ("GET", "v1//responses/resp_1/input_items"),
        ("DELETE", "responses/resp_1"),
        ("POST", "files"),
        ("GET", "batches"),
        ("DELETE", "models/ft-1"),
        ("POST", "anything/new"),
        ("GET", "embeddings"),
        ("GET", "models%2F..%2Ffiles"),
        ("GET", "files?x=/models"),
    ]:
        refused = ask(closed, method, f"{base(A)}/{path}", key)
        assert refused.status_code in (400, 403), path
        assert refused.json()["error"]["code"] in ("right_missing", "invalid_path"), path
    assert not provider.requests
    for method, path in [
        ("GET", "models"),
        ("GET", "v1/models/gpt-4"),
        ("POST", "embeddings"),
        ("POST", "moderations"),
    ]:
        body = {"model": "gpt-4", "input": "Hello"} if method == "POST" else None
        assert ask(closed, method, f"{base(A)}/{path}", key, body=body).status_code not in (401, 403), path
    own = {"X-Reservoir-Key": key, "Authorization": f"Bearer {OWN}"}
    assert ask(closed, "GET", f"{base(A)}/files", headers=own).status_code != 403
    relays = make_key(closed, ["acme"], rights=[Right.RELAY, Right.COMPLETE])
    assert ask(closed, "GET", f"{base(A)}/files", relays).status_code != 403


# --- limits ---


def test_a_key_over_its_limit_gets_429_as_openai_says_it(closed: Server) -> None:
    key = make_key(closed, ["acme"])
    manage(closed, "key", "limit", key.split("_")[2], "--requests", "2")
    eventually(lambda: chat(closed, A, key).status_code == 429)
    refused = chat(closed, A, key)
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert refused.headers["x-ratelimit-limit-requests"] == "2"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"


def test_every_answer_to_a_limited_key_tells_what_is_left(closed: Server, provider: FakeProvider) -> None:
    key = make_key(closed, ["acme"])
    unlimited = chat(closed, A, key)
    assert not [name for name in unlimited.headers if name.startswith("x-ratelimit-")]
    manage(closed, "key", "limit", key.split("_")[2], "--requests", "1000", "--tokens", "100000")
    eventually(lambda: "x-ratelimit-limit-requests" in chat(closed, A, key).headers)
    asked = [
        chat(closed, A, key),
        ask(closed, "POST", f"{base(A)}/chat/completions", key, body=says("Hello") | {"stream": True}),
        ask(closed, "GET", f"{base(A)}/models", key),
        ask(closed, "GET", "/v1/memory/partitions", key),
        ask(closed, "GET", f"{base(B)}/nothing", key),
        ask(closed, "GET", f"{base(A)}/command/nothing", key),
    ]
    statuses = [answer.status_code for answer in asked]
    assert statuses == [200, 200, 200, 200, 403, 404]
    for answer in asked:
        assert answer.headers["x-ratelimit-limit-requests"] == "1000"
        assert answer.headers["x-ratelimit-limit-tokens"] == "100000"
        assert 0 < int(answer.headers["x-ratelimit-remaining-requests"]) < 1000
        assert len(answer.headers.get_list("x-ratelimit-remaining-requests")) == 1


def test_tokens_of_passed_through_answers_count(closed: Server) -> None:
    key = make_key(closed, ["acme"])
    manage(closed, "key", "limit", key.split("_")[2], "--tokens", "9")
    body = {"model": "text-embedding-3-small", "input": "four tokens, says the provider"}
    eventually(lambda: "x-ratelimit-limit-tokens" in ask(closed, "GET", f"{base(A)}/models", key).headers)
    seen: list[httpx.Response] = []
    deadline = time.monotonic() + PATIENCE
    while not seen or seen[-1].status_code == 200:
        assert time.monotonic() < deadline
        seen.append(ask(closed, "POST", f"{base(A)}/embeddings", key, body=body))
    assert len(seen) >= 4  # 4, 8 and 12 of 9 tokens
    assert seen[-1].json()["error"]["type"] == "tokens"
    assert seen[-1].headers["x-ratelimit-remaining-tokens"] == "0"


# --- nowhere else ---


def test_a_key_is_found_nowhere(closed: Server, provider: FakeProvider, tmp_path: Path) -> None:
    planted = {
        "live": make_key(closed, ["acme"]),
        "expired": make_key(closed, ["acme"], lives="-1 second"),
        "revoked": make_key(closed, ["acme"], revoked=True),
        "spent": make_key(closed, ["acme"]),
        "malformed": make("app").text[:-1] + "!",
        "unknown": make("app").text,
    }
    manage(closed, "key", "limit", planted["spent"].split("_")[2], "--requests", "1")
    time.sleep(5)  # the server follows within that time
    seen = b""
    for key, (method, path) in product(planted.values(), [*routes(A), *ALWAYS]):
        answer = ask(closed, method, path, key, body=says("Hello") if method == "POST" else None)
        seen += answer.content + str(answer.headers).encode()
    with postgres_down(closed.home):
        for key in planted.values():
            chat(closed, A, key, "said while the database was gone")
        seen += b"".join(file.read_bytes() for file in (closed.home / "spool").rglob("*") if file.is_file())
    closed.wait_until_ready()
    eventually(lambda: rows(closed, "SELECT 1 FROM access_auditrecord WHERE action = 'denied'"))
    backup = tmp_path / "backup"
    manage(closed, "backup", str(backup))
    unpacked = subprocess.run([program("pg_restore"), "--file=-", str(backup)], capture_output=True, check=True).stdout
    assert b"access_accesskey" in unpacked
    for table in rows(
        closed, "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    ):
        seen += str(rows(closed, f'SELECT t::text FROM "{table["relname"]}" t')).encode()
    seen += manage(closed, "export").encode() + manage(closed, "key", "list").encode()
    seen += "".join(str(request.headers) + str(request.path) for request in provider.requests).encode()
    for kind, key in planted.items():
        secret = key.split("_")[3].encode()
        for where, text in (("seen", seen), ("backup", unpacked), ("log", closed.log.encode())):
            assert secret not in text, (kind, where)
    assert planted["live"].split("_")[2].encode() in seen  # the search does find what is there


# --- starting ---


def start(home: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    own = {"RESERVOIR_HOME": str(home), "RESERVOIR_PORT": str(free_port())}
    environment = clean_environment() | own | settings
    command = [sys.executable, "manage.py", "serve"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE)


def test_a_server_that_others_reach_does_not_start_without_a_key(start_server: StartServer, tmp_path: Path) -> None:
    home = tmp_path / "reservoir"
    refused = start(home, RESERVOIR_LISTEN="0.0.0.0")
    assert refused.returncode == 1
    assert "manage.py key create" in refused.stderr and "RESERVOIR_OPEN=yes" in refused.stderr
    assert "Traceback" not in refused.stderr
    server = start_server({"RESERVOIR_LISTEN": "0.0.0.0", "RESERVOIR_OPEN": "yes"})
    assert chat(server, A, None).status_code == 200
    key = manage(server, "key", "create", "app", "--partition", "*").strip()
    eventually(lambda: chat(server, A, None).status_code == 401)
    assert chat(server, A, key).status_code == 200
    server.stop()
    wrong = start(home, RESERVOIR_KEY_PEPPER="another")
    assert wrong.returncode == 1 and "RESERVOIR_KEY_PEPPER" in wrong.stderr
    server = start_server({"RESERVOIR_LISTEN": "0.0.0.0"})
    assert chat(server, A, key).status_code == 200
    assert chat(server, A, None).status_code == 401


def test_the_older_name_of_the_setting_still_opens(start_beside: StartServer) -> None:
    older = start_beside({"RESERVOIR_EXPOSE_EVERY_PARTITION_TO_WHOEVER_REACHES": "0.0.0.0"})
    assert chat(older, ("older", "name"), None).status_code == 200
    assert "every client that reaches this port" in older.log
