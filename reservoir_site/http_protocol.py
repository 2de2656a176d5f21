"""uvicorn's HTTP protocol with deadlines: a client that stalls loses its connection and costs others nothing."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from proxy.errors import BadRequest, HeadersTooLarge, ReservoirError

TICK_SECONDS = 5.0
FIRST_BYTE_SECONDS = 75.0  # from connecting to the first byte of a request
HEADER_SECONDS = 20.0  # from there to the end of its header
BODY_SECONDS = 60.0  # without a byte of a body that is still to come
WRITE_SECONDS = 120.0  # without a byte that the client reads
IDLE_SECONDS = 75  # between two requests; longer than the 60 s after which common proxies let go
MOST_HEADER_BYTES = 2**16


class DeadlineProtocol(HttpToolsProtocol):
    """Checks its deadlines every TICK_SECONDS."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        now = self.loop.time()
        self._connected = self._received = self._drained = now
        self._header_since: float | None = None
        self._header_bytes = 0
        self._unread = 0  # bytes that the client had not read at the last tick
        self._served = False  # a header has been complete
        self._timer = self.loop.call_later(TICK_SECONDS, self._tick)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._received = self.loop.time()
        if self._header_since is None and not self._served:
            self._header_since = self._received  # even of bytes that begin no message
        super().data_received(data)
        if self._header_since is not None and not self.transport.is_closing():
            self._header_bytes += len(data)
            if self._header_bytes > MOST_HEADER_BYTES:
                self._refuse(HeadersTooLarge(f"The header of a request may have {MOST_HEADER_BYTES} bytes."))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._header_since, self._header_bytes = self.loop.time(), 0

    def on_headers_complete(self) -> None:
        self._header_since, self._served = None, True
        super().on_headers_complete()

    def resume_writing(self) -> None:
        self._drained = self.loop.time()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """uvicorn's refusal of what is no HTTP, in OpenAI's shape."""
        self._refuse(BadRequest(msg, code="invalid_http"))

    def _refuse(self, error: ReservoirError) -> None:
        body = error.body()
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[error.status] + head + body)
        self.transport.close()

    def _tick(self) -> None:
        if self._is_stalled():
            self.transport.abort()
            return
        self._timer = self.loop.call_later(TICK_SECONDS, self._tick)

    def _is_stalled(self) -> bool:
        now = self.loop.time()
        unread = self.transport.get_write_buffer_size()
        if unread == 0 or unread < self._unread:
            self._drained = now
        self._unread = unread
        if now - self._drained > WRITE_SECONDS:
            return True
        if self._header_since is not None:
            return now - self._header_since > HEADER_SECONDS
        if not self._served:
            return now - self._connected > FIRST_BYTE_SECONDS
        cycle: Any = self.cycle
        waits_for_body = cycle is not None and cycle.more_body and not cycle.response_complete
        if not waits_for_body or self.flow.read_paused:
            self._received = now
        return now - self._received > BODY_SECONDS
