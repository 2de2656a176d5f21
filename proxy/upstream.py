"""Edge: the one place that talks to providers.

A request is sent once: neither this module nor its libraries retry. No cookies are kept, and no proxy or credential is
read from the environment. Answers are handed on as raw bytes; the caller of `send` closes the Answer.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterable

import aiohttp
import httpx
from yarl import URL

from proxy import metrics
from proxy.errors import ProviderError, ProviderTimeout, ProviderUnreachable

Headers = list[tuple[bytes, bytes]]

BEGINNING = 2**16  # bytes of a body that a test of its kind may look at
CHUNK = 2**14  # bytes of a body that are handed on at once

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


KEY_HEADERS = (b"authorization", b"api-key", b"x-api-key", b"x-goog-api-key")


def address(base_url: str, path: str, query: str) -> str:
    """The URL of a provider's route. Path and query stay as the client wrote them."""
    return f"{base_url}/{path}?{query}" if query else f"{base_url}/{path}"


def outgoing(
    headers: Iterable[tuple[bytes, bytes]],
    *,
    key: str | None,
    parsed: bool,
    size: int = 0,
    key_header: bytes = b"authorization",
) -> Headers:
    """The headers to send to the provider, from the client's. `key` replaces a missing one, in the `key_header`.

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
    if key and not any(name.lower() in (b"authorization", b"api-key", key_header) for name, _ in kept):
        kept.append((key_header, (b"Bearer " if key_header == b"authorization" else b"") + key.encode()))
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

    def __init__(self, response: aiohttp.ClientResponse, sent: Headers) -> None:
        """`sent` are the headers that the request went out with."""
        self._response = response
        self._sent = sent
        self._raw = response.content.iter_chunked(CHUNK)
        self._beginning = b""
        self.status = response.status
        self.headers: Headers = list(response.raw_headers)
        self.encoding = _joined(self.headers, b"content-encoding").strip().lower() or "identity"
        self.is_event_stream = _joined(self.headers, b"content-type").lower().startswith("text/event-stream")

    @property
    def secrets(self) -> tuple[str, ...]:
        """The keys that went out with the request: a provider may echo them."""
        values = (_joined(self._sent, name) for name in KEY_HEADERS)
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
        except (aiohttp.ClientError, OSError) as error:
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
        except (aiohttp.ClientError, OSError) as error:
            if rest := _received(self._response):
                yield rest
            raise _translated(error) from error
        finally:
            await self.close()

    async def close(self) -> None:
        """Close the connection if the body has not been read to its end. May be called more than once."""
        self._response.release()
        await self._response.wait_for_close()


class Upstream:
    """The client to all providers. Each event loop needs its own, made while it runs."""

    def __init__(self, *, connect_seconds: float, read_seconds: float) -> None:
        trusted = httpx.create_ssl_context()  # certifi's authorities, or those of SSL_CERT_FILE or SSL_CERT_DIR
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=60, ssl=trusted),
            timeout=aiohttp.ClientTimeout(
                total=None, connect=connect_seconds, sock_connect=connect_seconds, sock_read=read_seconds
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
            trust_env=False,
            auto_decompress=False,
            read_bufsize=2**16,
        )
        self._session._retry_connection = False  # otherwise aiohttp resends idempotent requests

    async def send(
        self, method: str, url: str, headers: Headers, content: bytes | AsyncIterator[bytes], *, name: str
    ) -> Answer:
        """Send a request once. Raises ProviderUnreachable or ProviderTimeout when no answer begins.

        `name` is the provider's, for errors. The URL goes out as it is.
        """
        try:
            response = await self._session.request(
                method,
                URL(url, encoded=True),
                headers=[(_text(name), _text(value)) for name, value in headers],
                data=content or None,
                allow_redirects=False,
            )
        except (aiohttp.ClientError, OSError, UnicodeError) as error:
            failure = _translated(error, f"{name} at {_host(url)}")
            metrics.provider_failed(name, failure.code or "")
            raise failure from error
        answer = Answer(response, headers)
        if answer.status >= 400:
            metrics.provider_failed(name, str(answer.status))
        if not 200 <= answer.status <= 599:
            await answer.close()
            raise ProviderUnreachable(f"The provider {name} at {_host(url)} answered with an invalid HTTP status.")
        return answer

    async def close(self) -> None:
        await self._session.close()


def _text(value: bytes) -> str:
    """A name or value of a header, which aiohttp sends as UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _joined(headers: Headers, wanted: bytes) -> str:
    """The values of a header, which may be repeated."""
    return ", ".join(_text(value) for name, value in headers if name.lower() == wanted)


def _received(response: aiohttp.ClientResponse) -> bytes:
    """The bytes that had arrived when the connection broke: aiohttp raises before it returns them."""
    content = response.content
    return bytes(content._read_nowait(-1)) if content._buffer else b""


def _host(url: str) -> str:
    """Scheme, host and port of a URL."""
    return "/".join(url.split("/", 3)[:3])


def _translated(error: Exception, provider: str = "") -> ProviderError:
    """The error of the API for one of the connection's, which may be the cause of another."""
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
