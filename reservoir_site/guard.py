"""The guard: admits or refuses every request before Django sees it. Plain ASGI.

Any web page can make its visitor's browser call a server on the visitor's machine. Therefore a request must name one
of our hosts, and must not come from a foreign origin unless a setting lists that origin.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import ExitStack
from typing import Any
from urllib.parse import quote

from django.conf import settings
from django.http.request import split_domain_port, validate_host

from conversations.numbers import whole_number
from proxy import metrics
from proxy.dialects import known
from proxy.errors import BadRequest, BodyTooLarge, Forbidden, HeadersTooLarge, NotFound, ReservoirError
from proxy.routes import METRICS, PARSED, PREFIXES, PROBES, VERSION, kind
from reservoir_site.forwarded import is_local, received
from reservoir_site.slots import slots

Event = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]

NOT_ENCODED = "".join(map(chr, range(33, 127)))

Headers = list[tuple[bytes, bytes]]

NOSNIFF = (b"x-content-type-options", b"nosniff")
DOCS = f"{VERSION}/docs"
DOCS_POLICY = (
    b"default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; object-src 'none'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
MOST_FIELDS = 100  # header fields of a request
MOST_HEADER_BYTES = 2**16

log = logging.getLogger("reservoir.access")


class Guard:
    """Passes admitted requests to `api`, or to `site` for all other paths. Writes the access log."""

    def __init__(self, *, api: App, site: App, gate: Callable[[Scope], Awaitable[Scope]]) -> None:
        """`gate` takes the access key out of a request to the API and adds its caller, or raises a ReservoirError."""
        self._api = api
        self._gate = gate
        self._site = site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, status = time.perf_counter(), 0
        local = is_local(scope)
        scope = received(scope, settings.RESERVOIR_TRUSTED_PROXIES)
        # As the client wrote it: once decoded, a name with %2F would look like two segments.
        path = quote(scope.get("raw_path") or scope["path"].encode(), safe=NOT_ENCODED)
        headers: dict[bytes, bytes] = dict(scope["headers"])
        origin = _listed_origin(headers)

        async def watched_send(event: Event) -> None:
            nonlocal status
            if event["type"] == "http.response.start":
                status = event["status"]
                event["headers"] = [*event["headers"], *_no_page(path), *(_cors(origin) if origin else ())]
            await send(event)

        try:
            try:
                _admit(scope, headers, path)
                is_api = path.startswith(PREFIXES) or path in PROBES or path == METRICS
                if is_api and origin and _is_preflight(scope["method"], headers):
                    await _respond(watched_send, 204, _preflight(headers), b"")
                    return
                if path.startswith(PREFIXES) or (path == METRICS and not local):
                    scope = await self._gate(scope)
                limited = _limited(receive, _limit(path), headers)
                if path.startswith(PREFIXES):
                    await self._in_turn({**scope, "path": path}, limited, watched_send)
                elif is_api:
                    await self._api({**scope, "path": path, "reservoir.local": local}, limited, watched_send)
                elif scope["path"].startswith(PREFIXES):
                    raise NotFound("The beginning of this path must not be percent-encoded.")
                else:
                    await self._site(scope, limited, watched_send)
            except ReservoirError as refusal:
                if not status:
                    body = known.refusal(path, scope["headers"], refusal)
                    await _respond(watched_send, refusal.status, refusal.headers, body)
        finally:
            metrics.answered(kind(path), status)
            elapsed = (time.perf_counter() - started) * 1000
            # Without the query string, which may hold private text.
            fields = {"method": scope["method"], "path": path, "status": status, "milliseconds": round(elapsed)}
            log.info("%s %s %s %.0f ms", scope["method"], path, status or "client left", elapsed, extra=fields)

    async def _in_turn(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request, or refuse it at once so that the others stay fast. Raises Overloaded.

        It takes a slot when its body is complete: a client that sends half a body costs others nothing.
        """
        slots.check()
        with ExitStack() as holding:
            complete = False

            async def receive_and_hold() -> Event:
                nonlocal complete
                event = await receive()
                if event["type"] == "http.request" and not event.get("more_body") and not complete:
                    complete = True
                    holding.enter_context(slots.held())
                return event

            await self._api(scope, receive_and_hold, send)


def _admit(scope: Scope, headers: dict[bytes, bytes], path: str) -> None:
    """Raises Forbidden, BadRequest or HeadersTooLarge for a request that must not enter."""
    size = sum(len(name) + len(value) for name, value in scope["headers"])
    if len(scope["headers"]) > MOST_FIELDS or size > MOST_HEADER_BYTES:
        raise HeadersTooLarge(f"A request may have {MOST_FIELDS} header fields of {MOST_HEADER_BYTES} bytes in all.")
    host = headers.get(b"host", b"").decode("latin-1")
    domain, _ = split_domain_port(host)
    # Load balancers ask the probes by address, or without a host.
    if path not in PROBES and not (domain and validate_host(domain, settings.ALLOWED_HOSTS)):
        raise Forbidden(
            "The host name of this request is not allowed: list it in RESERVOIR_ALLOWED_HOSTS.",
            code="host_not_allowed",
        )
    if b"origin" in headers or headers.get(b"sec-fetch-site") == b"cross-site":
        origin = headers.get(b"origin", b"").decode("latin-1")
        own = origin.partition("://")[2] == host
        cross_site = headers.get(b"sec-fetch-site") == b"cross-site"
        foreign = origin not in settings.RESERVOIR_ALLOWED_ORIGINS and (cross_site or not own)
        if foreign and not _follows_link(scope, headers, path):
            raise Forbidden(
                "Requests from other web origins are refused: list the origin in RESERVOIR_ALLOWED_ORIGINS.",
                code="origin_not_allowed",
            )
    if b"websocket" in headers.get(b"upgrade", b"").lower():
        raise BadRequest("WebSockets are not supported here: use HTTP.", code="websocket_not_supported")
    if not scope.get("query_string", b"").isascii():
        raise BadRequest("The query string must be percent-encoded.", code="invalid_query")


def _follows_link(scope: Scope, headers: dict[bytes, bytes], path: str) -> bool:
    """Whether a person follows a link into the admin, from a chat or a ticket. A form sends Origin, or is no GET."""
    return (
        scope["method"] == "GET"
        and b"origin" not in headers
        and headers.get(b"sec-fetch-mode") == b"navigate"
        and headers.get(b"sec-fetch-dest") == b"document"
        and path.startswith("/admin/")
    )


def _limit(path: str) -> int:
    passed_through = path.startswith(PREFIXES) and not path.endswith(PARSED)
    return settings.RESERVOIR_UPLOAD_LIMIT if passed_through else settings.RESERVOIR_BODY_LIMIT


def _limited(receive: Receive, limit: int, headers: dict[bytes, bytes]) -> Receive:
    """A `receive` that raises BodyTooLarge as soon as the body exceeds `limit` bytes."""
    too_large = BodyTooLarge(f"The body of the request is larger than {limit} bytes.")
    if (whole_number(headers.get(b"content-length", b"").decode("latin-1")) or 0) > limit:
        raise too_large
    received = 0

    async def receive_limited() -> Event:
        nonlocal received
        event = await receive()
        received += len(event.get("body", b""))
        if received > limit:
            raise too_large
        return event

    return receive_limited


def _listed_origin(headers: dict[bytes, bytes]) -> bytes:
    origin = headers.get(b"origin", b"")
    return origin if origin.decode("latin-1") in settings.RESERVOIR_ALLOWED_ORIGINS else b""


def _is_preflight(method: str, headers: dict[bytes, bytes]) -> bool:
    return method == "OPTIONS" and b"access-control-request-method" in headers


def _preflight(headers: dict[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    return [
        (b"access-control-allow-methods", b"GET, POST, PUT, PATCH, DELETE"),
        (b"access-control-allow-headers", headers.get(b"access-control-request-headers", b"")),
        (b"access-control-max-age", b"600"),
    ]


def _no_page(path: str) -> Headers:
    """Headers that keep a provider's HTML from acting as a page of ours. The admin's pages have their own."""
    if path == DOCS:
        return [(b"content-security-policy", DOCS_POLICY), (b"x-frame-options", b"DENY"), NOSNIFF]
    if path.startswith(PREFIXES) or path in (*PROBES, METRICS):
        return [(b"content-security-policy", b"sandbox; default-src 'none'"), NOSNIFF]
    return []


def _cors(origin: bytes) -> list[tuple[bytes, bytes]]:
    return [
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", b"*"),
        (b"vary", b"Origin"),
    ]


async def _respond(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    if body:
        headers = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
