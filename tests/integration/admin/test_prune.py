"""Forgetting in the admin: a dry run first, then exactly what it showed."""

from __future__ import annotations

import json
import re
from html import unescape

import pytest
from django.test import Client
from django.urls import reverse

from conversations.forgetting import forget
from conversations.models import AuditEntry, Exchange, Instance, Message, Partition
from conversations.selection import Selection
from tests.integration.admin.data import answer_of, exchange, question_of, staff
from tests.integration.admin.pages import HOME, WORK, browser, change, text

pytestmark = pytest.mark.django_db


def test_forgetting_deletes_exactly_what_the_dry_run_showed(root: Client) -> None:
    one = exchange(HOME, "My code is 1234.", "Noted.")
    exchange(HOME, "And bees?", "Bees too.", minutes=5)
    url = reverse("admin:prune")
    shown = text(root.get(url, {"message": [question_of(one), answer_of(one).pk]}))
    assert "This would go, for good" in shown and Message.objects.count() == 4, "a dry run"
    sealed = re.search(r'name="sealed" value="([^"]+)"', shown)
    assert sealed
    done = root.post(url, {"sealed": sealed[1]}, follow=True)
    assert "Forgotten: 2 messages" in text(done)
    assert sorted(Message.objects.values_list("content", flat=True)) == ["And bees?", "Bees too."]
    entry = AuditEntry.objects.get()
    assert entry.by == "admin: root" and entry.counts["messages"] == 2
    assert "1234" not in json.dumps(entry.criteria)


def test_a_selection_that_changed_since_its_dry_run_is_shown_again(root: Client) -> None:
    exchange(HOME, "One", "1")
    url = reverse("admin:prune")
    asked = {"partition_name": "home", "instance_name": "kitchen", "whole": "on", "counted": "1"}
    sealed = re.search(r'name="sealed" value="([^"]+)"', text(root.get(url, asked)))
    assert sealed
    exchange(HOME, "Two", "2", minutes=1)
    again = text(root.post(url, {"sealed": sealed[1]}))
    assert "Meanwhile something has been added or removed" in again and Message.objects.count() == 4
    sealed = re.search(r'name="sealed" value="([^"]+)"', again)
    assert sealed
    root.post(url, {"sealed": sealed[1]})
    assert not Message.objects.exists() and not Instance.objects.exists()


def test_a_seal_is_for_the_user_it_was_shown_to(root: Client) -> None:
    one = exchange(HOME, "One", "1")
    shown = text(root.get(reverse("admin:prune"), {"message": question_of(one)}))
    sealed = re.search(r'name="sealed" value="([^"]+)"', shown)
    assert sealed
    other = browser(staff("pia", "Pruner"))
    for forged in (sealed[1], sealed[1][:-3] + "abc", ""):
        other.post(reverse("admin:prune"), {"sealed": forged})
        assert Message.objects.count() == 2


@pytest.mark.parametrize(
    ("criteria", "goes"),
    [
        ({"role": "assistant"}, 2),
        ({"search": "honey"}, 1),
        ({"larger_than": "300"}, 1),
        ({"older_than": "1"}, 4),
        ({"since": "2026-05-02"}, 2),
        ({"before": "2026-05-02"}, 2),
    ],
)
def test_criteria_narrow_the_selection(root: Client, criteria: dict[str, str], goes: int) -> None:
    exchange(HOME, "x" * 300, "Yes.")
    exchange(HOME, "Honey?", "No.", minutes=60 * 24)
    exchange(WORK, "Honey?", "At work.")
    url = reverse("admin:prune")
    page = text(root.get(url, {"partition_name": "home", **criteria}))
    link = re.search(r'href="(\?[^"]+&amp;counted=1)">Count what would go', page)
    assert link and "This would go" not in page and "in 4 messages" in page, "the page does not wait for the count"
    said = f"<b>{goes}</b> message{'s' if goes > 1 else ''}</li>"
    assert said in text(root.get(url + unescape(link[1])))


def test_forgetting_without_a_selection_asks_for_one(root: Client) -> None:
    exchange(HOME, "One", "1")
    page = text(root.get(reverse("admin:prune"), {"partition_name": "home"}))
    assert "No messages are selected" in page and 'name="sealed"' not in page
    assert "There is no such partition" in text(
        root.get(reverse("admin:prune"), {"partition_name": "none", "whole": "on"})
    )


def test_what_a_partition_remembers_is_chosen_on_its_page(root: Client) -> None:
    exchange(HOME, "One", "1")
    partition = Partition.objects.get()
    assert partition.remember == Partition.Remember.PEOPLE
    page = text(root.get(change(partition)))
    assert "selected>people" in page and 'class="badge">remembers' not in page
    root.post(reverse("admin:remember", args=[partition.pk]), {"remember": "nothing"})
    partition.refresh_from_db()
    assert partition.remember == Partition.Remember.NOTHING
    assert 'class="badge">remembers nothing' in text(root.get(change(partition)))
    root.post(reverse("admin:remember", args=[partition.pk]), {"remember": "other"})
    partition.refresh_from_db()
    assert partition.remember == Partition.Remember.NOTHING


def test_an_exchange_names_the_rule_that_held(root: Client) -> None:
    made = exchange(HOME, "One", "1")
    Exchange.objects.filter(pk=made.pk).update(
        rule="open-webui", memory="off", parameters="", request_ids=[], question=None
    )
    made.messages.all().delete()
    assert "No person made this request: the rule <code>" in text(root.get(change(made)))
    assert "open-webui" in text(root.get(reverse("admin:conversations_exchange_changelist")))


def test_retention_is_set_for_a_partition(root: Client) -> None:
    exchange(HOME, "One", "1")
    partition = Partition.objects.get()
    root.post(reverse("admin:retention", args=[partition.pk]), {"keep_days": "30"})
    partition.refresh_from_db()
    assert partition.keep_days == 30 and "keeps 30 days" in text(root.get(change(partition)))
    root.post(reverse("admin:retention", args=[partition.pk]), {"keep_days": "-1"})
    partition.refresh_from_db()
    assert partition.keep_days == 30


@pytest.mark.parametrize(
    "criteria", [{"older_than": "999999"}, {"larger_than": "2147483648"}, {"search": "x" * 1001}, {"before": "0000"}]
)
def test_invalid_criteria_are_reported_at_their_field(root: Client, criteria: dict[str, str]) -> None:
    exchange(HOME, "One", "1")
    page = text(root.get(reverse("admin:prune"), {"partition_name": "home", "counted": "1", **criteria}))
    assert "errorlist" in page and 'name="sealed"' not in page


def test_an_exchange_without_a_message_is_deleted_too(root: Client) -> None:
    one = exchange(HOME, "One", "1")
    empty = exchange(HOME, "Two", "2", minutes=1)
    Message.objects.filter(content__in=("Two", "2")).delete()
    shown = text(root.get(reverse("admin:prune"), {"exchange": empty.pk}))
    sealed = re.search(r'name="sealed" value="([^"]+)"', shown)
    assert sealed and "<b>1</b> exchange</li>" in shown
    root.post(reverse("admin:prune"), {"sealed": sealed[1]})
    assert [left.pk for left in Exchange.objects.all()] == [one.pk]
    assert Message.objects.count() == 2


def test_an_emptied_conversation_does_not_come_first(root: Client) -> None:
    emptied, other = exchange(HOME, "One", "1"), exchange(WORK, "Two", "2", minutes=5)
    Instance.objects.filter(pk=emptied.instance_id).update(created=emptied.created)
    forget(Selection(partition="home", role="user"), by="tests")
    forget(Selection(partition="home", role="assistant"), by="tests")
    assert Instance.objects.order_by("-last_active").first() == other.instance
