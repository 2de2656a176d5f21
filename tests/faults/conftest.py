"""The real server and the real PostgreSQL, to be broken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.fake_provider import FakeProvider
from tests.server import Server

StartServer = Callable[..., Server]


@pytest.fixture(scope="module")
def provider_of_file() -> Iterator[FakeProvider]:
    """A provider for all tests of a file."""
    with FakeProvider() as provider:
        yield provider
    assert not provider.errors, provider.errors


@pytest.fixture
def provider(provider_of_file: FakeProvider) -> FakeProvider:
    """The file's provider, as new."""
    provider_of_file.reset()
    return provider_of_file


@pytest.fixture(scope="module")
def server_of_file(
    request: pytest.FixtureRequest, provider_of_file: FakeProvider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server for all tests of a file, with the SETTINGS of that file."""
    home, settings = tmp_path_factory.mktemp("reservoir"), getattr(request.module, "SETTINGS", {})
    with Server(home, provider_of_file.base_url, settings=settings) as server:
        yield server


@pytest.fixture
def server(server_of_file: Server, provider: FakeProvider) -> Server:
    """The file's server; one that a test has killed or stopped runs again for the next."""
    if not server_of_file.is_running:
        server_of_file.start()
    return server_of_file


@pytest.fixture
def start_server(provider: FakeProvider, tmp_path: Path) -> Iterator[StartServer]:
    """Start a server of the test's own in front of `provider`; all are stopped after it."""
    with ExitStack() as servers:

        def start(settings: Mapping[str, str] | None = None, *, home: Path | None = None) -> Server:
            return servers.enter_context(Server(home or tmp_path / "reservoir", provider.base_url, settings=settings))

        yield start
