"""Fixtures of the fault tests: the real server and the real PostgreSQL, for tests that break them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.fake_provider.provider import FakeProvider
from tests.server import PATIENT, Server

StartServer = Callable[..., Server]


@pytest.fixture(scope="module")
def provider_of_file() -> Iterator[FakeProvider]:
    """One provider for all tests of a file."""
    with FakeProvider() as provider:
        yield provider
    assert not provider.errors, provider.errors


@pytest.fixture
def provider(provider_of_file: FakeProvider) -> FakeProvider:
    """The file's provider, reset."""
    provider_of_file.reset()
    return provider_of_file


@pytest.fixture(scope="module")
def server_of_file(
    request: pytest.FixtureRequest, provider_of_file: FakeProvider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """One server for all tests of a file, with the SETTINGS of that file."""
    home, settings = tmp_path_factory.mktemp("reservoir"), PATIENT | getattr(request.module, "SETTINGS", {})
    with Server(home, provider_of_file.base_url, settings=settings) as server:
        yield server


@pytest.fixture
def server(server_of_file: Server, provider: FakeProvider) -> Server:
    """The file's server, started again if an earlier test killed or stopped it."""
    if not server_of_file.is_running:
        server_of_file.start()
    return server_of_file


@pytest.fixture
def start_server(provider: FakeProvider, tmp_path: Path) -> Iterator[StartServer]:
    """Starts servers in front of `provider` for one test and stops them after it."""
    with ExitStack() as servers:

        def start(settings: Mapping[str, str] | None = None, *, home: Path | None = None) -> Server:
            own = PATIENT | dict(settings or {})
            return servers.enter_context(Server(home or tmp_path / "reservoir", provider.base_url, settings=own))

        yield start
