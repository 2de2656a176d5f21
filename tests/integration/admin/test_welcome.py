"""The first page of an empty installation."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.test import Client
from django.urls import reverse

from conversations.models import Message
from proxy.providers import tokens
from tests.integration.admin.data import exchange, staff
from tests.integration.admin.pages import HOME, browser, text

pytestmark = pytest.mark.django_db


def test_an_empty_installation_shows_the_base_url_and_the_lines_of_clients(root: Client) -> None:
    page = text(root.get(reverse("admin:index")))
    assert "http://localhost/v1/partition/my-project/instance/root</code>" in page
    assert "ChatOpenAI(base_url=&quot;http://localhost/v1" in page and "Vercel AI SDK" in page
    exchange(HOME, "I keep bees.", "Lovely.")
    assert "Nothing has been said yet" not in text(root.get(reverse("admin:index")))


def test_the_demo_is_filled_once_and_only_by_superusers(root: Client, tmp_path: Path) -> None:
    tokens.prepare(tmp_path / "tiktoken")
    url = reverse("admin:demo")
    assert browser(staff("vera", "Viewer")).post(url).status_code == 403
    assert root.get(url).status_code == 404
    page = text(root.post(url, follow=True))
    assert "Zephyrine" in page
    count = Message.objects.count()
    assert count and count == Message.objects.backlog().count(), "a worker makes the vectors"
    root.post(url)
    assert Message.objects.count() == count
