"""The real server in front of the fake provider.

server         one for the whole run; every test uses its own scope, by `scope` or `client`
start_server   starts other servers, to be killed or stopped, each with its own home
start_beside   starts other servers on the home and the PostgreSQL of `server`, with other settings
provider       the provider of all servers; reset between tests
client         the real `openai` library, pointed at a fresh scope of `server`
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from openai import OpenAI

from tests.fake_provider.provider import FakeProvider
from tests.server import PATIENCE, PATIENT, Server

StartServer = Callable[..., Server]


@pytest.fixture(scope="session")
def session_provider() -> Iterator[FakeProvider]:
    with FakeProvider() as provider:
        yield provider


@pytest.fixture
def provider(session_provider: FakeProvider) -> Iterator[FakeProvider]:
    """The provider, reset: no script and no received requests."""
    session_provider.reset()
    yield session_provider
    assert not session_provider.errors, session_provider.errors


@pytest.fixture(scope="session")
def session_server(session_provider: FakeProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("reservoir"), session_provider.base_url, settings=PATIENT) as server:
        yield server


@pytest.fixture
def server(session_server: Server, provider: FakeProvider) -> Server:
    """The server that all tests share. A test must leave it running."""
    assert session_server.is_running, f"An earlier test stopped the shared server.\n{session_server.log}"
    return session_server


@pytest.fixture
def start_server(provider: FakeProvider, tmp_path: Path) -> Iterator[StartServer]:
    """Starts servers for one test and stops them after it.

    `settings` are environment variables. Pass another server's `home` to share its PostgreSQL.
    """
    with ExitStack() as servers:

        def start(
            settings: Mapping[str, str] | None = None,
            *,
            home: Path | None = None,
            database_url: str | None = None,
        ) -> Server:
            home = home or tmp_path / "reservoir"
            own = PATIENT | dict(settings or {})
            return servers.enter_context(Server(home, provider.base_url, database_url=database_url, settings=own))

        yield start


@pytest.fixture
def start_beside(start_server: StartServer, server: Server) -> StartServer:
    """Start a server of the test's own on the home of the shared one, whose database is running already."""
    return partial(start_server, home=server.home)


@pytest.fixture
def scope() -> tuple[str, str]:
    """A partition and an instance that no other test uses."""
    return f"partition-{uuid.uuid4().hex[:12]}", "my-application"


@pytest.fixture
def client(server: Server, scope: tuple[str, str]) -> Iterator[OpenAI]:
    """The real library with the base URL of a fresh scope on the shared server."""
    with OpenAI(base_url=server.base_url(*scope), api_key="sk-client", max_retries=0, timeout=PATIENCE) as client:
        yield client
