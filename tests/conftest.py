"""Fixtures that every kind of test may ask for."""

from __future__ import annotations

from collections.abc import Iterator

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
