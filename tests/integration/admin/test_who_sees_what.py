"""Which users see and forget what in the admin."""

from __future__ import annotations

import re
from itertools import product

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

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


def addresses(hidden: Exchange) -> list[str]:
    """Every address of the admin that names, or could list, something of this exchange: by id, name, filter, search."""
    instance, partition = hidden.instance, hidden.instance.partition
    found = every_page(hidden)
    rows = {
        "partition": [partition.pk],
        "instance": [instance.pk],
        "exchange": [hidden.pk],
        "message": list(Message.objects.filter(instance=instance).values_list("pk", flat=True)),
        "ledger": [hidden.pk],
        "embedding": [1],
        "stafflimit": [1],
        "auditentry": [1],
    }
    for model, keys in rows.items():
        for pk, end in product(keys, ("", "change/", "history/", "delete/")):
            found.append(f"/admin/conversations/{model}/{pk}/{end}")
        found.append(f"/admin/conversations/{model}/add/")
    lists = [f"/admin/conversations/{model}/" for model in ("partition", "instance", "exchange", "message")]
    conditions = (
        f"partition={partition.pk}",
        f"instance={instance.pk}",
        f"instance__id__exact={instance.pk}",
        f"instance__partition__name={partition.name}",
        f"partition_name={partition.name}",
        f"key={partition.name}",
        f"id={hidden.pk}",
        f"q={hidden.trace_id}",
        "q=secret",
        f"q={partition.name}",
        "all=1",
        "p=1",
        "o=-1.2",
        "created__gte=2000-01-01",
        "_facets=True",
    )
    found += [f"{one}?{condition}" for one, condition in product(lists, conditions)]
    for by in ("words", "meaning"):
        found += [f"/admin/search/?q=secret&by={by}&{where}" for where in conditions[:5]]
    found += [f"/admin/prune/?{condition}" for condition in conditions]
    found += [f"/admin/prune/?message={pk}" for pk in rows["message"]]
    found += [f"/admin/prune/{what}/{partition.pk}/" for what in ("retention", "remember")]
    found += [f"/admin/map/{instance.pk}/{end}" for end in ("", "?drawn=1", "?colour=topic")]
    for form, where in product(("jsonl", "markdown"), (*conditions[:5], f"exchange={hidden.pk}", "")):
        found.append(f"/admin/export/?format={form}&{where}")
    for span, by, form in product(("today", "week", "month"), ("partition", "model", "key", "day"), ("", "csv")):
        found.append(f"/admin/usage/?span={span}&by={by}&format={form}")
    found += [f"/admin/?window={window}&summed=1" for window in ("day", "week", "month", "all")]
    found += [f"/admin/playground/?{where}" for where in conditions[:5]]
    apps = ("access/accesskey", "access/auditrecord", "access/credential", "access/partitionlimit", "auth/user")
    found += [f"/admin/{app}/{end}" for app, end in product(apps, ("", "add/", "1/change/", "1/history/", "1/delete/"))]
    return [*dict.fromkeys(found)]


def test_no_address_of_the_admin_tells_a_limited_user_of_another_partition() -> None:
    exchange(HOME, "I keep bees.", "Lovely bees.")
    hidden = exchange(WORK, "The secret bees.", "Secret bees.")
    Exchange.objects.update(created=timezone.now())
    limited = browser(staff("lea", "Pruner", only=("home",)))
    asked = addresses(hidden)
    for address in asked:
        answer = limited.get(address)
        body = b"".join(answer) if answer.streaming else answer.content
        seen = (body + str(answer.headers).encode()).replace(address.encode(), b"").decode()
        for word in ("ecret", WORK.instance, str(hidden.trace_id)):
            if word not in address:
                assert word not in seen, (address, word)
        assert answer.status_code in (200, 302, 400, 403, 404), address
    print(f"{len(asked)} addresses, 0 leaks")
    assert len(asked) >= 200
