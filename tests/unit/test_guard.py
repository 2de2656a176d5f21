"""The guard in front of both applications: refusals, the limit of requests, the access log."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from ipaddress import ip_network
from typing import Any

import pytest
from pytest_django import Settings

from reservoir_site.guard import Guard
from reservoir_site.slots import slots
from tests.unit.asgi import Exchange, http_scope

LISTED = "https://listed.example"
ASK = "/v1/partition/p/instance/i/chat/completions"


class Application:
    """Reads the body and answers 200, after `gate` if there is one."""

    def __init__(self) -> None:
        self.scopes: list[Mapping[str, Any]] = []
        self.gate: asyncio.Event | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        while (await receive()).get("more_body"):
            pass
        if self.gate:
            await self.gate.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-of", b"the application")]})
        await send({"type": "http.response.body", "body": b"answered"})


async def let_in(scope: Any) -> Any:
    return scope


@pytest.fixture(autouse=True)
def configured(settings: Settings) -> None:
    settings.ALLOWED_HOSTS = ["localhost", ".internal.example"]
    settings.RESERVOIR_ALLOWED_ORIGINS = [LISTED]
    settings.RESERVOIR_BODY_LIMIT = 100
    settings.RESERVOIR_UPLOAD_LIMIT = 1000
    settings.RESERVOIR_MAX_REQUESTS = 2


@pytest.fixture
def api() -> Application:
    return Application()


@pytest.fixture
def site() -> Application:
    return Application()


@pytest.fixture
def guard(api: Application, site: Application) -> Guard:
    return Guard(api=api, site=site, gate=let_in)


async def ask(guard: Guard, scope: dict[str, Any], *body: bytes) -> Exchange:
    exchange = Exchange(*body)
    await guard(scope, exchange.receive, exchange.send)
    return exchange


def error_code(exchange: Exchange) -> str:
    code: str = json.loads(exchange.body)["error"]["code"]
    assert dict(exchange.headers)[b"content-length"] == str(len(exchange.body)).encode()
    return code


# --- hosts and origins ---


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "LOCALHOST", "a.internal.example"])
async def test_allowed_hosts_are_admitted(guard: Guard, host: str) -> None:
    assert (await ask(guard, http_scope(headers={"host": host}))).status == 200


@pytest.mark.parametrize("host", ["", "evil.example", "localhost.evil.example", "local host", "localhost@evil.example"])
@pytest.mark.parametrize("path", ["/v1/models", "/partition/p", "/ready/", "/admin/"])
async def test_other_hosts_are_refused_on_every_path(
    guard: Guard, api: Application, site: Application, host: str, path: str
) -> None:
    refused = await ask(guard, http_scope(path, {"host": host}))
    assert (refused.status, error_code(refused)) == (403, "host_not_allowed")
    assert not api.scopes and not site.scopes


@pytest.mark.parametrize("headers", [{"host": ""}, {"host": "10.0.0.7:3017"}, {"host": "any.example"}])
@pytest.mark.parametrize("path", ["/live", "/ready", "/health", "/healthz"])
async def test_probes_answer_any_host_but_no_foreign_page(guard: Guard, path: str, headers: dict[str, str]) -> None:
    assert (await ask(guard, http_scope(path, headers))).status == 200
    assert (await ask(guard, http_scope(path, headers | {"origin": "https://evil.example"}))).status == 403


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "http://localhost"},
        {"origin": "http://localhost:8000", "host": "localhost:8000"},
        {"origin": LISTED},
        {"origin": LISTED, "sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
    ],
)
async def test_our_own_and_listed_origins_are_admitted(guard: Guard, headers: dict[str, str]) -> None:
    assert (await ask(guard, http_scope(headers=headers))).status == 200


async def test_a_trusted_proxy_says_which_host_the_client_named(
    guard: Guard, api: Application, settings: Settings
) -> None:
    sent = {"host": "10.0.0.7:3017", "x-forwarded-host": "localhost:8000", "origin": "http://localhost:8000"}
    assert (await ask(guard, http_scope(headers=sent))).status == 403
    settings.RESERVOIR_TRUSTED_PROXIES = [ip_network("127.0.0.0/8")]
    assert (await ask(guard, http_scope(headers=sent))).status == 200
    assert (b"host", b"localhost:8000") in api.scopes[0]["headers"]


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:9000", "host": "localhost:8000"},
        {"origin": "http://localhost", "sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "cross-site"},
    ],
)
async def test_requests_of_foreign_origins_are_refused(guard: Guard, api: Application, headers: dict[str, str]) -> None:
    refused = await ask(guard, http_scope(headers=headers))
    assert (refused.status, error_code(refused)) == (403, "origin_not_allowed")
    assert not api.scopes
    assert b"access-control-allow-origin" not in dict(refused.headers)


async def test_only_answers_to_a_listed_origin_carry_cors_headers(guard: Guard) -> None:
    listed = await ask(guard, http_scope(headers={"origin": LISTED}))
    assert dict(listed.headers)[b"access-control-allow-origin"] == LISTED.encode()
    assert (b"x-of", b"the application") in listed.headers
    own = await ask(guard, http_scope(headers={"origin": "http://localhost"}))
    assert (b"x-of", b"the application") in own.headers
    assert not any(name.startswith(b"access-control-") for name, _ in own.headers)


async def test_refusals_to_a_listed_origin_carry_cors_headers_too(guard: Guard) -> None:
    refused = await ask(guard, http_scope(ASK, {"origin": LISTED, "content-length": "101"}, method="POST"))
    assert (refused.status, dict(refused.headers)[b"access-control-allow-origin"]) == (413, LISTED.encode())


async def test_the_guard_answers_the_preflight_of_a_listed_origin(guard: Guard, api: Application) -> None:
    headers = {
        "origin": LISTED,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization, x-own",
    }
    answer = await ask(guard, http_scope(ASK, headers, method="OPTIONS"))
    told = dict(answer.headers)
    assert (answer.status, answer.body, api.scopes) == (204, b"", [])
    assert told[b"access-control-allow-headers"] == b"authorization, x-own"
    assert b"POST" in told[b"access-control-allow-methods"]
    assert told[b"access-control-allow-origin"] == LISTED.encode()


@pytest.mark.parametrize(
    ("path", "headers", "method"),
    [
        (ASK, {"access-control-request-method": "POST"}, "OPTIONS"),
        (ASK, {"origin": LISTED}, "OPTIONS"),
        (ASK, {"origin": LISTED, "access-control-request-method": "POST"}, "GET"),
        ("/admin/", {"origin": LISTED, "access-control-request-method": "POST"}, "OPTIONS"),
    ],
)
async def test_other_options_requests_reach_the_application(
    guard: Guard, path: str, headers: dict[str, str], method: str
) -> None:
    assert (await ask(guard, http_scope(path, headers, method=method))).body == b"answered"


# --- requests that never reach an application ---


async def test_websockets_are_refused(guard: Guard) -> None:
    refused = await ask(guard, http_scope(headers={"upgrade": "WebSocket"}))
    assert (refused.status, error_code(refused)) == (400, "websocket_not_supported")


async def test_an_unencoded_query_string_is_refused(guard: Guard) -> None:
    refused = await ask(guard, http_scope(query="q=ü".encode()))
    assert (refused.status, error_code(refused)) == (400, "invalid_query")


@pytest.mark.parametrize(
    ("path", "limit"),
    [(ASK, 100), ("/partition/p/recall", 100), ("/admin/login/", 100), ("/v1/files", 1000), ("/partition/p/x", 1000)],
)
async def test_each_path_has_its_body_limit(
    guard: Guard, api: Application, site: Application, path: str, limit: int
) -> None:
    for headers, pieces in (
        ({"content-length": str(limit)}, [bytes(limit)]),
        ({}, [bytes(limit // 2), bytes(limit // 2)]),
    ):
        assert (await ask(guard, http_scope(path, headers, method="POST"), *pieces)).status == 200
    seen = len(api.scopes + site.scopes)
    refused = await ask(guard, http_scope(path, {"content-length": str(limit + 1)}, method="POST"), bytes(limit + 1))
    assert (refused.status, error_code(refused)) == (413, "request_too_large")
    assert len(api.scopes + site.scopes) == seen, "the length alone was enough to refuse it"
    refused = await ask(guard, http_scope(path, method="POST"), bytes(limit), b"x")
    assert (refused.status, error_code(refused)) == (413, "request_too_large")


async def test_only_requests_over_the_limit_are_refused(guard: Guard, api: Application) -> None:
    api.gate = asyncio.Event()
    running = [asyncio.create_task(ask(guard, http_scope())) for _ in range(2)]
    async with asyncio.timeout(300):
        while len(api.scopes) < 2:  # noqa: ASYNC110 - a list, not an event
            await asyncio.sleep(0)
    refused = await ask(guard, http_scope())
    assert (refused.status, error_code(refused)) == (503, "overloaded")
    assert dict(refused.headers)[b"retry-after"] == b"1"
    assert (await ask(guard, http_scope("/admin/"))).status == 200, "the site has no such limit"
    probing = asyncio.create_task(ask(guard, http_scope("/ready")))
    api.gate.set()
    assert [one.status for one in await asyncio.gather(*running, probing)] == [200, 200, 200]
    assert (await ask(guard, http_scope())).status == 200


async def test_a_failed_request_frees_its_slot(guard: Guard, api: Application) -> None:
    async def failing(event: Any) -> None:
        raise ConnectionResetError

    for _ in range(3):
        with pytest.raises(ConnectionResetError):
            await guard(http_scope(), Exchange().receive, failing)
    assert (await ask(guard, http_scope())).status == 200


# --- paths ---


@pytest.mark.parametrize(
    ("path", "is_api"),
    [
        ("/v1/models", True),
        ("/partition/p", True),
        ("/live", True),
        ("/ready", True),
        ("/", False),
        ("/admin/", False),
        ("/v1", False),
        ("/ready/", False),
    ],
)
async def test_api_paths_go_to_the_api_and_others_to_the_site(
    guard: Guard, api: Application, site: Application, path: str, is_api: bool
) -> None:
    await ask(guard, http_scope(path))
    assert [scope["path"] for scope in (api if is_api else site).scopes] == [path]
    assert not (site if is_api else api).scopes


async def test_the_api_gets_names_in_their_encoded_form(guard: Guard, api: Application) -> None:
    raw = b"/v1/partition/a%2Fb/instance/%C3%BC/models"
    await ask(guard, http_scope("/v1/partition/a/b/instance/ü/models", raw_path=raw))
    assert api.scopes[0]["path"] == raw.decode()


async def test_unencoded_bytes_are_encoded(guard: Guard, api: Application) -> None:
    await ask(guard, http_scope("/v1/partition/ü", raw_path="/v1/partition/ü".encode()))
    await ask(guard, {**http_scope("/v1/partition/ü"), "raw_path": None})
    assert [scope["path"] for scope in api.scopes] == ["/v1/partition/%C3%BC"] * 2


async def test_a_path_that_disguises_its_prefix_is_refused(guard: Guard, api: Application, site: Application) -> None:
    refused = await ask(guard, http_scope("/v1/models", raw_path=b"/%761/models"))
    assert (refused.status, error_code(refused)) == (404, "not_found")
    assert not api.scopes and not site.scopes


# --- the log, and answers that have begun ---


async def test_each_request_is_one_log_line_without_its_query(guard: Guard, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="reservoir.access"):
        await ask(guard, http_scope("/v1/partition/p/recall", query=b"query=private"))
        await ask(guard, http_scope(headers={"host": "evil.example"}))
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].startswith("GET /v1/partition/p/recall 200 ") and "private" not in caplog.text
    assert lines[1].startswith("GET /v1/models 403 ")


async def test_the_log_shows_clients_that_left_before_their_answer(
    site: Application, caplog: pytest.LogCaptureFixture
) -> None:
    async def silent(scope: Any, receive: Any, send: Any) -> None:
        await receive()

    with caplog.at_level(logging.INFO, logger="reservoir.access"):
        await ask(Guard(api=silent, site=site, gate=let_in), http_scope())
    assert "GET /v1/models client left " in caplog.text


async def test_no_refusal_follows_an_answer_that_has_begun(site: Application) -> None:
    async def hasty(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (await receive()).get("more_body"):
            pass

    exchange = await ask(Guard(api=hasty, site=site, gate=let_in), http_scope(ASK, method="POST"), bytes(100), b"x")
    assert [event["type"] for event in exchange.sent] == ["http.response.start"]


# --- header fields, slots, pages ---


async def test_too_many_header_fields_or_bytes_are_refused(guard: Guard, api: Application) -> None:
    for more in ({f"x-{number}": "a" for number in range(100)}, {"x-long": "a" * 2**16}):
        refused = await ask(guard, http_scope(headers=more))
        assert (refused.status, error_code(refused)) == (431, "headers_too_large")
    assert not api.scopes


async def test_a_request_without_its_whole_body_takes_no_slot(guard: Guard) -> None:
    waiting = [Exchange(b"half", breaks_off=True) for _ in range(2)]
    for exchange in waiting:
        exchange.leaves.clear()
    scope = http_scope(ASK, method="POST")
    tasks = [asyncio.create_task(guard(scope, exchange.receive, exchange.send)) for exchange in waiting]
    await asyncio.sleep(0)
    assert slots.problem is None
    assert (await ask(guard, scope, b"whole")).status == 200
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert slots.running == 0


@pytest.mark.parametrize("path", ["/v1/models", ASK, "/live", "/v1/docs"])
async def test_an_answer_of_the_api_cannot_act_as_a_page(guard: Guard, path: str) -> None:
    headers = dict((await ask(guard, http_scope(path))).headers)
    assert headers[b"x-content-type-options"] == b"nosniff"
    policy = headers[b"content-security-policy"]
    assert b"frame-ancestors 'none'" in policy if path == "/v1/docs" else policy == b"sandbox; default-src 'none'"


@pytest.mark.parametrize(
    ("path", "method", "more", "status"),
    [
        ("/admin/x", "GET", {}, 200),
        ("/admin/x", "POST", {}, 403),
        ("/admin/x", "GET", {"origin": "https://evil.example"}, 403),
        ("/admin/x", "GET", {"sec-fetch-dest": "iframe"}, 403),
        ("/v1/models", "GET", {}, 403),
    ],
)
async def test_a_link_into_the_admin_works_and_a_form_does_not(
    guard: Guard, path: str, method: str, more: dict[str, str], status: int
) -> None:
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"} | more
    assert (await ask(guard, http_scope(path, headers, method=method))).status == status
