"""The real server and the real PostgreSQL, to be broken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.fake_provider import FakeProvider
from tests.server import Server

StartServer = Callable[..., Server]


@pytest.fixture
def start_server(provider: FakeProvider, tmp_path: Path) -> Iterator[StartServer]:
    """Start a server of the test's own in front of `provider`; all are stopped after it."""
    with ExitStack() as servers:

        def start(settings: Mapping[str, str] | None = None, *, home: Path | None = None) -> Server:
            return servers.enter_context(Server(home or tmp_path / "reservoir", provider.base_url, settings=settings))

        yield start
