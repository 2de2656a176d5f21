"""Fixtures of the admin tests. `root` is a superuser's browser."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.test import Client

from tests.integration.admin.pages import browser


@pytest.fixture
def root(db: None) -> Client:
    return browser(User.objects.create_superuser("root"))
