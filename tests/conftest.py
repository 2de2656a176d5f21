"""Fixtures that every kind of test may ask for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake_provider import FakeProvider


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    """A provider on loopback, fresh for each test."""
    with FakeProvider() as fake:
        yield fake
    assert not fake.errors, fake.errors


@pytest.fixture(scope="session")
def django_db_modify_db_settings() -> Iterator[None]:
    """Start the server before Django makes its test database in it."""
    from reservoir_site import database

    database.reach()
    yield
    if server := database.embedded():
        server.release()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The tests in a browser run when they are asked for (script/test-browser): no other needs one."""
    asked = any("browser" in argument for argument in config.args)
    return True if collection_path.name == "browser" and not asked else None
