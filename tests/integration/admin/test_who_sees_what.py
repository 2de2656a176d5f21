"""Which users see and forget what in the admin."""

from __future__ import annotations

import re

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse

from conversations import lookup
from conversations.models import Exchange, Message, StaffLimit
from conversations.querysets import SCRATCH, Scope
from tests.integration.admin.data import exchange, question_of, staff
from tests.integration.admin.pages import HOME, WORK, browser, change, every_page, text

pytestmark = pytest.mark.django_db


def test_scratch_partitions_are_invisible(root: Client) -> None:
    exchange(HOME, "I keep bees.", "Lovely.")
    scratch = exchange(Scope(f"{SCRATCH}{'0' * 32}", "measured"), "I keep zebras.", "Lovely.", minutes=9)
    for url in every_page(Exchange.objects.get(instance__name="kitchen")):
        page = text(root.get(url))
        assert "zebras" not in page and SCRATCH not in page and "measured" not in page, url
    assert "zebras" not in text(root.get(reverse("admin:search") + "?q=lovely"))
    choice = text(root.get(reverse("admin:auth_user_change", args=[User.objects.get().pk])))
    assert HOME.partition in choice and SCRATCH not in choice
    assert root.get(change(scratch)).status_code == 302
    told = lookup.figures()
    assert (told.partitions, told.messages, told.exchanges) == (1, 2, 1)
    assert told.last and told.last < scratch.created


def test_a_viewer_reads_everything_and_forgets_nothing() -> None:
    one = exchange(HOME, "I keep bees.", "Lovely.")
    viewer = browser(staff("vera", "Viewer"))
    for url in every_page(one):
        expected = 403 if "/prune/" in url else 200
        assert viewer.get(url).status_code == expected, url
    assert viewer.post(reverse("admin:prune"), {"sealed": "x"}).status_code == 403
    assert viewer.post(reverse("admin:retention", args=[one.instance.partition_id])).status_code == 403
    assert "Forget" not in text(viewer.get(change(one)))


def test_a_user_without_permissions_sees_no_conversation() -> None:
    one = exchange(HOME, "I keep bees.", "Lovely.")
    outsider = browser(User.objects.create_user("outsider", is_staff=True))
    for url in every_page(one)[2:]:
        assert outsider.get(url).status_code == 403, url
    assert "bees" not in text(outsider.get(reverse("admin:index")))
    visitor = Client(headers={"host": "localhost"})
    for url in every_page(one):
        assert visitor.get(url).status_code == 302, url


def test_a_limited_user_sees_those_partitions_only() -> None:
    theirs, hidden = exchange(HOME, "I keep bees.", "Lovely bees."), exchange(WORK, "The secret bees.", "Secret bees.")
    limited = browser(staff("lea", "Pruner", only=("home",)))
    for url in every_page(theirs):
        page = text(limited.get(url))
        assert "ecret" not in page and "payments" not in page, url
    for url in every_page(hidden):
        if any(part in url for part in ("/change/", "/map/", "/prune/")) and "partition_name" not in url:
            assert limited.get(url).status_code in (302, 404), url
        page = limited.get(url, follow=True).content.decode()
        assert "ecret" not in page and "payments" not in page, url
    chosen = text(limited.get(reverse("admin:prune"), {"message": [question_of(hidden)]}))
    assert "no longer there" in chosen
    assert "There is no such partition" in text(
        limited.get(reverse("admin:prune"), {"partition_name": "work", "whole": "on"})
    )
    nothing = browser(staff("nil", "Viewer", only=()))
    assert "home" not in text(nothing.get(reverse("admin:conversations_partition_changelist")))


def test_only_what_a_user_may_read_is_exported() -> None:
    hidden = exchange(WORK, "The secret bees.", "Secret bees.")
    export = reverse("admin:export")
    limited = browser(staff("lea", "Pruner", only=("home",)))
    for place in (f"instance={hidden.instance_id}", f"partition={hidden.instance.partition_id}"):
        assert limited.get(f"{export}?{place}").status_code == 404
        assert browser(staff(f"v-{place}", "Viewer")).get(f"{export}?{place}").status_code == 200
    outsider = browser(User.objects.create_user("outsider", is_staff=True))
    assert outsider.get(f"{export}?instance={hidden.instance_id}").status_code == 403


def test_a_limit_set_after_the_dry_run_applies(root: Client) -> None:
    one = exchange(HOME, "One", "1")
    user = staff("pia", "Pruner")
    client = browser(user)
    sealed = re.search(
        r'name="sealed" value="([^"]+)"', text(client.get(reverse("admin:prune"), {"message": question_of(one)}))
    )
    assert sealed

    StaffLimit.objects.create(user=user)
    assert client.post(reverse("admin:prune"), {"sealed": sealed[1]}).status_code == 403
    assert Message.objects.count() == 2


def test_messages_are_shown_only_to_users_who_may_read_them() -> None:
    one = exchange(HOME, "The secret bees.", "Secret bees.")
    user = User.objects.create_user("figures", is_staff=True)
    names = ("view_partition", "view_instance", "view_exchange", "view_ledger")
    user.user_permissions.set(Permission.objects.filter(codename__in=names))
    counting = browser(user)
    for url in every_page(one):
        response = counting.get(url)
        assert response.status_code in (200, 403), url
        assert "ecret" not in response.content.decode(), url
    assert counting.get(change(one)).status_code == counting.get(change(one.instance)).status_code == 403
    exchanges = reverse("admin:conversations_exchange_changelist")
    assert str(one.model) in text(counting.get(exchanges))
    assert counting.get(exchanges, {"q": "secret"}).status_code == 403


def test_a_limited_user_does_not_learn_the_size_of_other_backlogs() -> None:
    exchange(HOME, "I keep bees.", "Lovely.")
    assert "wait for a vector" in text(browser(staff("vera", "Viewer")).get(reverse("admin:index")))
    limited = text(browser(staff("lea", "Viewer", only=("home",))).get(reverse("admin:index")))
    assert "wait for a vector" not in limited


def test_a_tick_limits_a_user_to_no_partition(root: Client) -> None:
    exchange(HOME, "I keep bees.", "Lovely.")
    user = staff("nil", "Viewer")
    url = reverse("admin:auth_user_change", args=[user.pk])
    form = {
        "username": "nil",
        "is_active": "on",
        "is_staff": "on",
        "date_joined_0": "2026-05-01",
        "date_joined_1": "08:00:00",
        "limit-TOTAL_FORMS": "1",
        "limit-INITIAL_FORMS": "0",
    }
    assert root.post(url, form).status_code == 302
    assert not StaffLimit.objects.exists()
    assert root.post(url, form | {"limit-0-limited": "on"}).status_code == 302
    assert not StaffLimit.objects.get().partitions.exists()
    assert "limited" in text(root.get(url))


def test_thousands_of_partitions_are_not_offered_as_one_list(root: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    exchange(HOME, "I keep bees.", "Lovely.")
    url = reverse("admin:auth_user_change", args=[staff("lea", "Viewer", only=("home",)).pk])
    assert ">home</option>" in text(root.get(url))
    monkeypatch.setattr("console.users.MOST_CHOICES", 0)
    page = text(root.get(url))
    assert ">home</option>" not in page and "vManyToManyRawIdAdminField" in page


def test_hidden_characters_of_partition_names_are_shown_in_the_choice(root: Client) -> None:
    exchange(Scope("\u202eevil", "kitchen"), "I keep bees.", "Lovely.")
    page = text(root.get(reverse("admin:auth_user_change", args=[staff("lea", "Viewer").pk])))
    assert "⟦U+202E⟧evil" in page and "\u202e" not in page
