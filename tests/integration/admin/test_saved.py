"""Views of lists and searches that a user saved."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from conversations.models import SavedFilter
from tests.integration.admin.data import exchange, staff
from tests.integration.admin.pages import HOME, browser, text

pytestmark = pytest.mark.django_db
LIST = reverse("admin:conversations_exchange_changelist")


def save(client: Client, name: str, query: str, **more: Any) -> Any:
    return client.post(reverse("admin:saved"), {"page": "exchange", "name": name, "query": query, **more})


def links(client: Client) -> dict[str, str]:
    page = text(client.get(LIST)).split("Saved</summary>")[1].split("</details>")[0]
    return {name: unescape(address) for address, name in re.findall(r'<a href="([^"]+)"><bdi>([^<]+)</bdi></a>', page)}


def test_a_view_is_saved_found_again_replaced_and_removed(root: Client) -> None:
    page = text(root.get(LIST, {"provider": "openai", "o": "7", "p": "1"}))
    (query,) = set(re.findall(r'name="query" value="([^"]*)"', page))
    assert unescape(query) == "provider=openai&o=7"
    answer = save(root, "dear ones", unescape(query))
    assert answer.status_code == 302 and answer.headers["Location"] == f"{LIST}?provider=openai&o=7"
    assert links(root) == {"dear ones": f"{LIST}?provider=openai&o=7"}
    save(root, "dear ones", "o=8")
    assert links(root) == {"dear ones": f"{LIST}?o=8"}
    save(root, "", "", remove=str(SavedFilter.objects.get().pk))
    assert links(root) == {}


def test_saved_views_are_of_one_user_alone(root: Client) -> None:
    save(root, "mine", "o=7")
    ann = browser(staff("ann", "Viewer", only=(HOME.partition,)))
    assert links(ann) == {}
    save(ann, "", "", remove=str(SavedFilter.objects.get().pk))
    assert links(root) == {"mine": f"{LIST}?o=7"}
    User.objects.get(username="root").delete()
    assert not SavedFilter.objects.exists()


def test_a_saved_view_stays_on_its_page_whatever_is_sent(root: Client) -> None:
    exchange(HOME, "I keep bees.", "Lovely.")
    save(root, "<b>\u202eodd", "//evil.example/\x00" + "x" * 5000)
    (address,) = links(root).values()
    assert address.startswith(f"{LIST}?//evil.example/x") and len(address) < 2_100
    assert save(root, "x", "y", page="elsewhere").status_code == 404
    assert root.get(reverse("admin:saved")).status_code == 404
    for number in range(60):
        save(root, f"name {number}", "o=7")
    assert SavedFilter.objects.count() == 50
