"""A client's request: the scope it belongs to, what it wants of its memory, and its body, not read yet."""

from __future__ import annotations

import asyncio
import json
import uuid
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from io import BytesIO
from typing import IO, ParamSpec, TypeVar
from urllib.parse import unquote

from conversations.numbers import whole_number
from conversations.turns import NAME_LENGTH
from proxy.admission.caller import EVERYBODY, Caller
from proxy.errors import BadRequest, BodyTooLarge
from proxy.memory.exchange import MemoryOptions
from proxy.memory.service import SCRATCH, Scope
from proxy.prompt.chat import rename_model
from proxy.prompt.json_cost import is_costly
from proxy.providers import model_name
from proxy.providers.registry import Provider
from proxy.upstream import KEY_HEADERS, Headers

MOST_BUDGET = 999_999_999  # tokens
HEADERS = (b"x-reservoir-recall", b"x-reservoir-store", b"x-reservoir-budget")
READABLE = (b"", b"gzip", b"x-gzip", b"deflate")  # encodings of a body that are read
CHUNK = 2**16
QUICKLY_DONE = 2**15  # bytes; no request of this size takes more than some 15 ms, whatever it holds

P = ParamSpec("P")
T = TypeVar("T")
OFF, ON = {"off", "false", "no", "0"}, {"", "on", "true", "yes", "1"}
CONTROLS = frozenset(map(chr, (*range(32), *range(127, 160))))


@dataclass(frozen=True, slots=True)
class Call:
    """One request to a route of a scope."""

    method: str
    trace_id: uuid.UUID
    scope: Scope
    options: MemoryOptions
    budget: int  # tokens of the memory block
    headers: Headers  # as sent
    query: str
    body: IO[bytes]  # in memory, or in a file if it is large
    size: int  # of the body in bytes
    closing: AsyncExitStack  # closed at the end of the call, however it ends
    caller: Caller = EVERYBODY

    @classmethod
    def of(
        cls,
        method: str,
        *,
        partition: str,
        instance: str,
        headers: Headers,
        query: str,
        body: IO[bytes],
        budget: int,
        closing: AsyncExitStack,
        caller: Caller = EVERYBODY,
    ) -> Call:
        """A call with a new trace id. Names are as in the URL; `budget` applies unless a header sets another.

        Raises BadRequest for an invalid name or X-Reservoir header.
        """
        _check_headers(headers)
        scope = Scope(scope_name(partition, "partition"), scope_name(instance, "instance"))
        options = MemoryOptions(
            recall=_is_on(headers, b"x-reservoir-recall"),
            store=_is_on(headers, b"x-reservoir-store"),
        )
        size = body.seek(0, 2)
        body.seek(0)
        return cls(
            method=method,
            trace_id=uuid.uuid4(),
            scope=scope,
            options=options,
            budget=_budget(headers, budget),
            headers=headers,
            query=query,
            body=body,
            size=size,
            closing=closing,
            caller=caller,
        )

    async def offload(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do work whose duration grows with the request: on a thread if the request is large, else right here.

        A compressed request may be large whatever its size.
        """
        if self.size < QUICKLY_DONE and not self.encoding:
            return work(*args, **kwargs)
        return await asyncio.to_thread(work, *args, **kwargs)

    def read(self) -> bytes:
        """The whole body."""
        self.body.seek(0)
        return self.body.read()

    @property
    def traceparent(self) -> str:
        """The trace that the client's request belongs to (W3C Trace Context), or nothing."""
        return next(iter(_values(self.headers, b"traceparent")), "")

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body in chunks: uploads may have any size."""
        self.body.seek(0)
        while chunk := self.body.read(CHUNK):
            yield chunk

    def key_for(self, provider: Provider) -> str | None:
        """The key that Reservoir adds for a provider: the access key's credential, or else the server's."""
        return self.caller.credentials.get(provider.name) or provider.key

    def headers_for(self, provider: Provider) -> Headers:
        """The headers for a provider: without the app's own key if the access key has a credential for it."""
        if provider.name not in self.caller.credentials:
            return self.headers
        return [(name, value) for name, value in self.headers if name.lower() not in KEY_HEADERS]

    @property
    def encoding(self) -> bytes:
        """The Content-Encoding of the body; empty for a plain one."""
        named = (value.strip().lower() for name, value in self.headers if name.lower() == b"content-encoding")
        return next((value for value in named if value != b"identity"), b"")

    @property
    def is_readable(self) -> bool:
        """Whether the body is plain or in an encoding that `decompressed` knows."""
        return self.encoding in READABLE

    def decompressed(self, limit: int) -> Call:
        """The same call with a plain body. Raises BadRequest for damaged data, BodyTooLarge for over `limit` bytes."""
        if not self.encoding:
            return self
        inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)
        try:
            body = inflater.decompress(self.read(), limit + 1)
        except zlib.error:
            raise BadRequest("The body of the request is not valid gzip or deflate.", code="invalid_encoding") from None
        if len(body) > limit:
            raise BodyTooLarge(f"The body of the request is larger than {limit} bytes.")
        if not inflater.eof:
            raise BadRequest("The compressed body of the request breaks off.", code="invalid_encoding")
        headers = [(name, value) for name, value in self.headers if name.lower() != b"content-encoding"]
        return replace(self.with_body(body), headers=headers)

    def with_body(self, body: bytes) -> Call:
        """The same call with another body."""
        return replace(self, body=BytesIO(body), size=len(body))

    def model(self, rest: str, parse_limit: int) -> str:
        """The model named by the path, a JSON body of at most `parse_limit` bytes, or a form; empty without one."""
        if model := model_name.in_path(rest):
            return model
        if self._is_form:
            self.body.seek(0)
            head = self.body.read(model_name.LOOKED_AT)
            self.body.seek(max(0, self.size - model_name.LOOKED_AT))
            return model_name.in_form(head, self._kind) or model_name.in_form(self.body.read(), self._kind)
        if b"json" not in self._kind.lower() or not 0 < self.size <= parse_limit:
            return ""
        return model_name.in_json(self.read())

    def with_model(self, rest: str, model: str, parse_limit: int) -> tuple[Call, str]:
        """The same call and path with another model. A form larger than `parse_limit` bytes is left unchanged."""
        if model_name.in_path(rest):
            return self, model_name.renamed_in_path(model)
        if not self._is_form:
            return self.with_body(_renamed(self.read(), model)), rest
        fits = self.size <= parse_limit
        return (self.with_body(model_name.renamed_in_form(self.read(), self._kind, model)) if fits else self), rest

    @property
    def _kind(self) -> bytes:
        return next((value for name, value in self.headers if name.lower() == b"content-type"), b"")

    @property
    def _is_form(self) -> bool:
        return self._kind.lower().startswith(b"multipart/form-data")


def _renamed(body: bytes, model: str) -> bytes:
    """A JSON body with another model."""
    if not is_costly(body):
        return rename_model(body, model)
    start, end = model_name.span_in_json(body) or (0, 0)
    return body[:start] + json.dumps(model).encode()[1:-1] + body[end:]


def scope_name(raw: str, what: str) -> str:
    """A scope's name from its path segment, which is percent-encoded. Raises BadRequest."""
    try:
        name = unquote(raw, errors="strict")
    except UnicodeDecodeError:
        raise BadRequest(f"The {what} in the URL is not percent-encoded UTF-8.", param=what) from None
    if not name.strip():
        raise BadRequest(f"The {what} in the URL is empty.", param=what)
    if len(name) > NAME_LENGTH:
        raise BadRequest(f"The {what} in the URL is longer than {NAME_LENGTH} characters.", param=what)
    if what == "partition" and name.startswith(SCRATCH):
        raise BadRequest(f"Partitions whose name begins with {SCRATCH} are reserved.", param=what)
    if name.startswith("{") and name.endswith("}"):
        raise BadRequest(f"The {what} in the URL is {name}: write a name in its place, without braces.", param=what)
    if CONTROLS.intersection(name):
        raise BadRequest(f"The {what} in the URL holds control characters.", param=what)
    return name


def _values(headers: Headers, wanted: bytes) -> list[str]:
    """The values of a header, which may be repeated."""
    return [value.decode("latin-1").strip() for name, value in headers if name.lower() == wanted]


def _check_headers(headers: Headers) -> None:
    """Raises BadRequest for an X-Reservoir header that does not exist: misspelt options must not pass unnoticed."""
    for name, _ in headers:
        if (low := name.lower()).startswith(b"x-reservoir-") and low not in HEADERS:
            known = ", ".join(header.decode().title() for header in HEADERS)
            header = name.decode("latin-1")
            raise BadRequest(f"There is no request header {header!r}: use {known}.", code="invalid_header")


def _is_on(headers: Headers, name: bytes) -> bool:
    """False if any value of the header says off. Raises BadRequest for a value that is neither on nor off."""
    words = {word.lower() for word in _values(headers, name)}
    if words - OFF - ON:
        raise BadRequest("X-Reservoir-Recall and X-Reservoir-Store take on or off.", code="invalid_header")
    return words.isdisjoint(OFF)


def _budget(headers: Headers, default: int) -> int:
    """The lowest budget that the headers give, else the default. Raises BadRequest."""
    given = [whole_number(value, most=MOST_BUDGET) for value in _values(headers, b"x-reservoir-budget") if value]
    if None in given:
        raise BadRequest("X-Reservoir-Budget takes a number of tokens, such as 1000.", code="invalid_header")
    return min((budget for budget in given if budget is not None), default=default)
