"""Search in the admin: where, when, and what leads on from it."""

from __future__ import annotations

import re
from html import unescape

import pytest
from django.test import Client
from django.urls import reverse

from conversations.backlog import work_off
from conversations.embedding import active_model, in_use
from conversations.querysets import Scope
from tests.integration.admin.data import exchange, said, staff
from tests.integration.admin.pages import HOME, WORK, browser, text

pytestmark = pytest.mark.django_db

DAY = 24 * 60


def found(client: Client, **asked: str) -> str:
    return text(client.get(reverse("admin:search"), asked))


@pytest.fixture
def bees() -> None:
    """Bees at home on the first and on the third of May, and at work on the first."""
    exchange(HOME, "My bees swarmed early.", "Oh.")
    exchange(HOME, "My bees gave honey lately.", "Nice.", minutes=2 * DAY)
    exchange(WORK, "The bees of the office left.", "Pity.")
    active_model()  # this database may not have its row yet
    while work_off(in_use()):
        pass


@pytest.mark.parametrize("by", ["words", "meaning"])
def test_search_takes_a_partition_by_name_and_days(root: Client, bees: None, by: str) -> None:
    asked = {"q": "bees", "by": by, "compared": "1"}
    everywhere = found(root, **asked)
    assert "swarmed" in everywhere and "lately" in everywhere and "office" in everywhere
    home = found(root, **asked, **{"in": "home"})
    assert "swarmed" in home and "lately" in home and "office" not in home
    first = found(root, **asked, first="2026-05-01", last="2026-05-01")
    assert "swarmed" in first and "office" in first and "lately" not in first
    later = found(root, **asked, first="2026-05-02", **{"in": "home"})
    assert "lately" in later and "swarmed" not in later


def test_a_place_or_days_that_make_no_sense_are_said_to_be_so(root: Client, bees: None) -> None:
    assert "There is no partition 'house'" in unescape(found(root, q="bees", **{"in": "house"}))
    assert "after the last one" in found(root, q="bees", first="2026-05-02", last="2026-05-01")
    assert "swarmed" in found(root, q="bees", first="2026-02-31", last="x")


def test_a_limited_user_picks_from_their_partitions_only(bees: None) -> None:
    limited = browser(staff("lea", "Viewer", only=("home",)))
    page = found(limited, q="bees")
    assert '<option value="home">' in page and '<option value="work">' not in page
    hidden = found(limited, q="bees", **{"in": "work"})
    assert "There is no partition" in hidden and "office" not in hidden


def test_forgetting_all_that_was_found_begins_with_its_dry_run(root: Client, bees: None) -> None:
    page = found(root, q="bees", last="2026-05-01", **{"in": "home"})
    (url,) = re.findall(r'href="(/admin/prune/[^"]+)">Forget all that was found', page)
    dry = text(root.get(unescape(url) + "&counted=1"))
    assert "<b>1</b> message</li>" in dry and "swarmed" in dry and "lately" not in dry


def test_tool_calls_read_as_such_in_the_list_of_messages(root: Client) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    picture = [{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}]
    history = (said("user", picture), said("assistant", None, tool_calls=[call]), said("tool", "12 degrees"))
    exchange(Scope("home", "weather"), "And now?", "Cold.", history=history)
    page = text(root.get(reverse("admin:conversations_message_changelist")))
    assert "calls get_weather" in page and "image without text" in page and "(no text)" not in page
