"""All errors that clients get, as a tree, and their bodies.

    ReservoirError                     a refusal with an HTTP status and a body in OpenAI's shape
    ├── BadRequest              400    the API does not accept the request
    │   └── ContextLengthExceeded 400  the last message alone is longer than the model's window
    ├── Unauthorized            401    no valid access key, whatever is wrong with it
    ├── Forbidden               403    a foreign origin or an unknown host name; a right or a scope that a key lacks
    ├── NotFound                404    the route does not exist
    ├── MethodNotAllowed        405    the route does not take the method
    ├── RateLimited             429    a limit or a budget is used up; carries Retry-After and X-RateLimit-*
    ├── BodyTooLarge            413    over RESERVOIR_BODY_LIMIT or RESERVOIR_UPLOAD_LIMIT
    ├── HeadersTooLarge         431    too many header fields, or too many bytes of them
    ├── Overloaded              503    too many requests at once; carries Retry-After
    ├── Unavailable             503    the memory API while the database is unreachable; carries Retry-After
    └── ProviderError                  the provider gave no answer
        ├── ProviderUnreachable 502    refused, reset, name not resolved, not HTTP
        └── ProviderTimeout     504    no connection within RESERVOIR_CONNECT_SECONDS

A provider's own errors are not in this tree: they are relayed as they came. Failures of the memory are not in it
either: they never reach a client as an error.
"""

from __future__ import annotations

import json
from math import ceil
from typing import Any, ClassVar


class ReservoirError(Exception):
    """A refusal: `message` is one sentence for the client, `code` and `param` are those of OpenAI's API.

    `headers` are sent with it.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str | None] = None

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.param = param
        self.headers: list[tuple[bytes, bytes]] = [(b"content-type", b"application/json")]

    def body(self) -> bytes:
        """The JSON body in OpenAI's shape: https://platform.openai.com/docs/guides/error-codes."""
        return openai_error(self.message, type=self.type, code=self.code, param=self.param)


class BadRequest(ReservoirError):
    status = 400
    type = "invalid_request_error"


class ContextLengthExceeded(BadRequest):
    default_code = "context_length_exceeded"


class Unauthorized(ReservoirError):
    status = 401
    type = "invalid_request_error"
    default_code = "invalid_api_key"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.headers.append((b"www-authenticate", b"Bearer"))


class Forbidden(ReservoirError):
    status = 403
    type = "invalid_request_error"
    default_code = "forbidden"


class NotFound(ReservoirError):
    status = 404
    type = "invalid_request_error"
    default_code = "not_found"


class MethodNotAllowed(ReservoirError):
    status = 405
    type = "invalid_request_error"
    default_code = "method_not_allowed"


class RateLimited(ReservoirError):
    """As OpenAI refuses: `type` says what is used up (requests, tokens), `seconds` when to come again."""

    status = 429
    default_code = "rate_limit_exceeded"

    def __init__(self, message: str, what: str, *, seconds: float, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.what = what
        self.headers.append((b"retry-after", str(max(1, ceil(seconds))).encode()))

    def body(self) -> bytes:
        return openai_error(self.message, type=self.what, code=self.code)


class BodyTooLarge(ReservoirError):
    status = 413
    type = "invalid_request_error"
    default_code = "request_too_large"


class HeadersTooLarge(ReservoirError):
    status = 431
    type = "invalid_request_error"
    default_code = "headers_too_large"


class Overloaded(ReservoirError):
    status = 503
    default_code = "overloaded"

    def __init__(self, message: str, *, seconds: int = 1) -> None:
        super().__init__(message)
        self.headers.append((b"retry-after", b"%d" % seconds))


class Unavailable(Overloaded):
    default_code = "database_unavailable"


class ProviderError(ReservoirError):
    status = 502
    type = "upstream_error"


class ProviderUnreachable(ProviderError):
    default_code = "provider_unreachable"


class ProviderTimeout(ProviderError):
    status = 504
    default_code = "provider_timeout"


def openai_error(
    message: str,
    *,
    type: str,  # noqa: A002
    code: str | None = None,
    param: str | None = None,
) -> bytes:
    """`{"error": {"message", "type", "param", "code"}}` as UTF-8 JSON."""
    error: dict[str, Any] = {"message": message, "type": type, "param": param, "code": code}
    return json.dumps({"error": error}).encode()
