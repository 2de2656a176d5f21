"""Edge: the one place that talks to providers.

A request is sent once: neither this module nor its libraries retry. No cookies are kept, and no proxy or credential is
read from the environment. Answers are handed on as raw bytes; the caller of `send` closes the Answer.
"""

from __future__ import annotations

import http.cookiejar
import re
from collections.abc import AsyncIterator, Callable, Iterable

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from proxy import metrics
from proxy.errors import ProviderError, ProviderTimeout, ProviderUnreachable

Headers = list[tuple[bytes, bytes]]

BEGINNING = 2**16  # bytes of a body that a test of its kind may look at

# RFC 9110, section 7.6.1, and other headers of one connection.
HOP_BY_HOP = frozenset(
    [
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    ]
)
NOT_SENT = HOP_BY_HOP | {b"host", b"cookie", b"content-length", b"expect"}
# Cookies, and headers about the provider's own host, which clients would apply to ours.
NOT_RELAYED = HOP_BY_HOP | {
    b"set-cookie",
    b"set-cookie2",
    b"server",
    b"strict-transport-security",
    b"alt-svc",
    b"service-worker-allowed",
    b"clear-site-data",
    b"www-authenticate",
    b"refresh",
    b"link",
    b"nel",
    b"report-to",
    b"content-security-policy",
    b"content-security-policy-report-only",
    b"x-content-type-options",  # ours is sent
}
# Bytes that may not stand in a field: a server refuses to send them.
_NO_NAME = re.compile(rb"[^!#$%&\x27*+.^_`|~0-9A-Za-z-]")
_NO_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


KEY_HEADERS = ("authorization", "api-key", "x-api-key", "x-goog-api-key")


def address(base_url: str, path: str, query: str) -> str:
    """The URL of a provider's route. Path and query stay as the client wrote them."""
    return f"{base_url}/{path}?{query}" if query else f"{base_url}/{path}"


def outgoing(headers: Iterable[tuple[bytes, bytes]], *, key: str | None, parsed: bool, size: int = 0) -> Headers:
    """The headers to send to the provider, from the client's. `key` replaces a missing Authorization.

    `parsed` says that the answer will be parsed, so it is requested without compression. `size` is the length of the
    body in bytes; 0 sends no Content-Length.
    """
    headers = list(headers)
    dropped = NOT_SENT | _named_by_connection(headers)
    kept = [
        (name, value)
        for name, value in headers
        if (low := name.lower()) not in dropped
        and not low.startswith(b"x-reservoir-")
        and not (parsed and low == b"accept-encoding")
    ]
    if parsed:
        kept.append((b"accept-encoding", b"identity"))
    if key and not any(name.lower() in (b"authorization", b"api-key") for name, _ in kept):
        kept.append((b"authorization", b"Bearer " + key.encode()))
    if size:
        kept.append((b"content-length", str(size).encode()))
    return kept


def relayed(headers: Iterable[tuple[bytes, bytes]], *, parsed: bool = False) -> Headers:
    """The headers to send to the client, from the provider's.

    `parsed` says that the answer is parsed. Its Content-Length is dropped then, since a stream that breaks off gains
    an error frame.
    """
    headers = list(headers)
    dropped = NOT_RELAYED | _named_by_connection(headers) | ({b"content-length"} if parsed else set())
    return [
        (name, value)
        for name, value in headers
        if (low := name.lower()) not in dropped
        and not low.startswith((b"access-control-", b"x-reservoir-"))
        and name
        and not _NO_NAME.search(name)
        and not _NO_VALUE.search(value)
    ]


def _named_by_connection(headers: Iterable[tuple[bytes, bytes]]) -> set[bytes]:
    return {
        token.strip().lower() for name, value in headers if name.lower() == b"connection" for token in value.split(b",")
    }


class Answer:
    """A provider's answer: status and headers have arrived, the body has not."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._raw = response.aiter_raw()
        self._beginning = b""
        self.status = response.status_code
        self.headers: Headers = list(response.headers.raw)
        self.encoding = response.headers.get("content-encoding", "identity").strip().lower()
        self.is_event_stream = response.headers.get("content-type", "").lower().startswith("text/event-stream")

    @property
    def secrets(self) -> tuple[str, ...]:
        """The keys that went out with the request: a provider may echo them."""
        values = (self._response.request.headers.get(name, "") for name in KEY_HEADERS)
        return tuple(value.removeprefix("Bearer ").strip() for value in values if value)

    async def begins(self, test: Callable[[bytes], bool | None]) -> bool:
        """Whether the body begins as `test` says; waits for more bytes while it says None. Those bytes are not lost.

        A test that BEGINNING bytes do not decide counts as failed. Raises ProviderError when the body breaks off.
        """
        try:
            while (result := test(self._beginning)) is None:
                if len(self._beginning) > BEGINNING:
                    return False
                self._beginning += await anext(self._raw)
        except StopAsyncIteration:
            return False
        except (httpx.HTTPError, aiohttp.ClientError, OSError) as error:
            raise _translated(error) from error
        return result

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body's bytes as they arrive. Raises ProviderError when the body breaks off.

        The iterator owns the connection: it closes the connection when it ends, however it ends.
        """
        try:
            if self._beginning:
                yield self._beginning
            async for chunk in self._raw:
                yield chunk
        except (httpx.HTTPError, aiohttp.ClientError, OSError) as error:
            if rest := _received(self._response):
                yield rest
            raise _translated(error) from error
        finally:
            await self.close()

    async def close(self) -> None:
        """Close the connection if the body has not been read to its end. May be called more than once."""
        await self._response.aclose()


class Upstream:
    """The client to all providers. Each event loop needs its own."""

    def __init__(self, *, connect_seconds: float, read_seconds: float) -> None:
        self._timeout = httpx.Timeout(read_seconds, connect=connect_seconds, pool=connect_seconds)
        self._client = httpx.AsyncClient(
            transport=AiohttpTransport(client=self._session),
            trust_env=False,
            timeout=self._timeout,
            cookies=http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(allowed_domains=[])),
        )

    def _session(self) -> aiohttp.ClientSession:
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=60, ssl=httpx.create_ssl_context()),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
            trust_env=False,
            auto_decompress=False,
            read_bufsize=2**16,
        )
        session._retry_connection = False  # otherwise aiohttp resends idempotent requests
        return session

    async def send(
        self, method: str, url: str, headers: Headers, content: bytes | AsyncIterator[bytes], *, name: str
    ) -> Answer:
        """Send a request once. Raises ProviderUnreachable or ProviderTimeout when no answer begins.

        `name` is the provider's, for errors.
        """
        request = httpx.Request(method, url, headers=headers, content=content)
        request.extensions["timeout"] = self._timeout.as_dict()
        try:
            answer = Answer(await self._client.send(request, stream=True, follow_redirects=False))
        except (httpx.HTTPError, aiohttp.ClientError, OSError, UnicodeError) as error:
            failure = _translated(error, f"{name} at {_host(url)}")
            metrics.provider_failed(name, failure.code or "")
            raise failure from error
        if answer.status >= 400:
            metrics.provider_failed(name, str(answer.status))
        if not 200 <= answer.status <= 599:
            await answer.close()
            raise ProviderUnreachable(f"The provider {name} at {_host(url)} answered with an invalid HTTP status.")
        return answer

    async def close(self) -> None:
        await self._client.aclose()


def _received(response: httpx.Response) -> bytes:
    """The bytes that had arrived when the connection broke: aiohttp raises before it returns them."""
    content = response.stream._stream._aiohttp_response.content  # type: ignore[union-attr]
    return bytes(content._read_nowait(-1)) if content._buffer else b""


def _host(url: str) -> str:
    """Scheme, host and port of a URL."""
    return "/".join(url.split("/", 3)[:3])


def _translated(error: Exception, provider: str = "") -> ProviderError:
    """httpx-aiohttp reports refused and broken connections as timeouts; their cause shows the difference."""
    who = f"the provider {provider}".rstrip()
    subject = f"T{who[1:]}"
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) and cause not in causes:
        causes.append(cause)
    if any(isinstance(c, aiohttp.ConnectionTimeoutError) for c in causes):
        return ProviderTimeout(f"Connecting to {who} took too long. Try again later.")
    if any(isinstance(c, aiohttp.ClientConnectorError) for c in causes):
        return ProviderUnreachable(f"{subject} cannot be reached: check its base URL, and that it is running.")
    if any(isinstance(c, TimeoutError | aiohttp.ServerTimeoutError) for c in causes):
        return ProviderTimeout(f"{subject} did not answer in time.", code="provider_timeout")
    return ProviderUnreachable(f"The connection to {who} broke before its answer was complete.")
