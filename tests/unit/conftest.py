"""Shared by all unit tests: no network."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest


@pytest.fixture(autouse=True, scope="package")
def no_network() -> Iterator[None]:
    """Refuse every socket but those between threads and processes of this machine (AF_UNIX)."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("bind", "connect", "connect_ex"):
            patch.setattr(socket.socket, name, _only_unix(getattr(socket.socket, name)))
        patch.setattr(socket, "getaddrinfo", _refused)
        yield


def _only_unix(method: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(self: socket.socket, *arguments: Any) -> Any:
        return method(self, *arguments) if self.family == socket.AF_UNIX else _refused()

    return guarded


def _refused(*_: object, **__: object) -> Any:
    raise AssertionError("A unit test touches the network: it belongs in tests/integration.")
