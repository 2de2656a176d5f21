"""Fixtures for every kind of test, and the conditions under which all of them run."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_django
from httpx._config import DEFAULT_TIMEOUT_CONFIG
from hypothesis import HealthCheck, settings

from tests.fake_provider.provider import FakeProvider
from tests.server import PATIENCE

# A busy machine is not a failure: examples may take any time.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

# httpx gives up after 5 seconds. All its functions share this object as their default.
for part in ("connect", "read", "write", "pool"):
    setattr(DEFAULT_TIMEOUT_CONFIG, part, PATIENCE)


def pytest_configure() -> None:
    """Undo an ignored SIGINT, as `nohup` and a shell's `&` leave it.

    Every child process would inherit it, and tests interrupt their children. A handler, unlike SIG_IGN, is reset
    to the default when a child starts.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    """A provider on loopback, fresh for each test."""
    with FakeProvider() as fake:
        yield fake
    assert not fake.errors, fake.errors


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_blocker: pytest_django.DjangoDbBlocker) -> Iterator[None]:
    """Start PostgreSQL before Django creates its test database there; check that of DATABASE_URL."""
    from django.db import connection

    from reservoir_site import database

    with django_db_blocker.unblock():
        database.reach()
        connection.close()
    yield
    if server := database.embedded():
        server.release()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out tests with needs of their own: those in a browser, unless asked for (script/test-browser), and those of
    client libraries, which run in other environments (script/test-clients)."""
    if collection_path == Path(__file__).parent / "clients":
        return True
    asked = any("browser" in argument for argument in config.args)
    return True if collection_path.name == "browser" and not asked else None
