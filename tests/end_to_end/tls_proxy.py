"""A small reverse proxy that ends TLS, as nginx or Caddy would: real sockets, a certificate of its own authority."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress
from typing import Self

import trustme


class TlsProxy:
    """Passes requests on to a server with X-Forwarded-For, -Proto and -Host. One request for each connection."""

    def __init__(self, host: str = "memory.example.com") -> None:
        self.host = host
        self.server_port = 0  # where it passes requests on to
        self.seen_as = "192.0.2.1"  # the address that it tells of its clients
        self._authority = trustme.CA()
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._authority.issue_cert(host).configure_cert(self._context)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, name="tls-proxy", daemon=True)

    @property
    def url(self) -> str:
        """What a browser has in its address bar."""
        return f"https://{self.host}:{self.port}"

    def trust(self) -> ssl.SSLContext:
        """A client's context that trusts the proxy's authority."""
        context = ssl.create_default_context()
        self._authority.configure_trust(context)
        return context

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                raw, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=[raw], daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        with suppress(OSError), self._context.wrap_socket(raw, server_side=True) as client:
            request = b""
            while b"\r\n\r\n" not in request:
                request += client.recv(65536)
            head, _, body = request.partition(b"\r\n\r\n")
            lines = head.split(b"\r\n")
            fields = dict(line.lower().split(b": ", 1) for line in lines[1:])
            while len(body) < int(fields.get(b"content-length", b"0")):
                body += client.recv(65536)
            told = f"X-Forwarded-For: {self.seen_as}\r\nX-Forwarded-Proto: https\r\n"
            told += f"X-Forwarded-Host: {self.host}:{self.port}"
            kept = [line for line in lines if not line.lower().startswith((b"connection:", b"x-forwarded-"))]
            with socket.create_connection(("127.0.0.1", self.server_port)) as server:
                server.sendall(b"\r\n".join([*kept, told.encode(), b"Connection: close", b"", body]))
                while piece := server.recv(65536):
                    client.sendall(piece)
