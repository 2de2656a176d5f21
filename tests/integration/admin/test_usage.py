"""What was used and what it cost: page, command and file; filters of exchanges, and the dashboard's warning."""

from __future__ import annotations

import csv
import io
import json
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from access import keys
from access.audit import Who
from access.keys import Wanted
from access.rights import APP
from conversations.models import Exchange
from conversations.querysets import Scope
from tests.integration.admin.data import exchange, staff
from tests.integration.admin.pages import HOME, WORK, browser, text

pytestmark = pytest.mark.django_db
LIST = "admin:conversations_exchange_changelist"


def used(scope: Scope, model: str, dollars: str, *, hours: float = 0.1, **more: Any) -> Exchange:
    one = exchange(scope, f"Asked {model}", "Answered.")
    fields = {"model": model, "cost": Decimal(dollars), "input_tokens": 100, "output_tokens": 10, "provider": "openai"}
    Exchange.objects.filter(pk=one.pk).update(created=timezone.now() - timedelta(hours=hours), **(fields | more))
    return one


def printed(*arguments: str) -> str:
    out = io.StringIO()
    call_command("usage", *arguments, stdout=out)
    return out.getvalue()


def test_the_costliest_comes_first_on_the_page_and_in_the_file(root: Client) -> None:
    used(HOME, "cheap", "0.10")
    for _ in range(2):
        used(WORK, "=dear", "2.50", ended="failed")
    page = text(root.get(reverse("admin:usage"), {"span": "week"}))
    assert page.index("=dear") < page.index("cheap")
    assert "$5.10" in page
    answer = root.get(reverse("admin:usage"), {"by": ["partition", "model"], "format": "csv"})
    assert answer.headers["Content-Disposition"].startswith('attachment; filename="usage-')
    rows = list(csv.DictReader(io.StringIO(text(answer))))
    assert [(row["partition"], row["model"], row["exchanges"], row["failed"]) for row in rows] == [
        (WORK.partition, "'=dear", "2", "2"),
        (HOME.partition, "cheap", "1", "0"),
    ]
    assert Decimal(rows[0]["dollars"]) == 5


def test_the_sums_of_a_month_load_after_their_page(root: Client) -> None:
    used(HOME, "cheap", "0.10")
    page = text(root.get(reverse("admin:usage"), {"span": "month", "by": "model"}))
    assert 'href="?span=month&amp;by=model&amp;summed=1"' in page and "cheap" not in page
    assert "cheap" in text(root.get(reverse("admin:usage"), {"span": "month", "by": "model", "summed": "1"}))


def test_the_command_sums_up_by_what_is_asked_for() -> None:
    used(HOME, "cheap", "0.10")
    used(HOME, "old", "9", hours=24 * 40)
    used(WORK, "dear", "2.50", memory="degraded")
    assert "$2.5000" in printed() and "old" not in printed()
    (row,) = json.loads(printed("--json", "--by", "provider"))
    assert (row["provider"], row["exchanges"], row["degraded"], row["input"]) == ("openai", 2, 1, 200)
    assert printed("--csv", "--by", "model", "--partition", "home").splitlines()[1].startswith("cheap,1,0,0,100,10,0.1")
    with pytest.raises(CommandError, match="write some of day, partition"):
        printed("--by", "colour")


def test_limited_users_see_the_usage_of_their_partitions_alone() -> None:
    used(HOME, "cheap", "0.10")
    used(WORK, "dear", "2.50")
    page = text(browser(staff("ann", "Viewer", only=(HOME.partition,))).get(reverse("admin:usage")))
    assert "cheap" in page and "dear" not in page and WORK.partition not in page
    assert browser(User.objects.create_user("guest", is_staff=True)).get(reverse("admin:usage")).status_code == 403


def test_exchanges_are_filtered_by_what_is_typed(root: Client) -> None:
    used(HOME, "good", "1", status=200)
    used(WORK, "bad", "1", status=429, ended="failed", provider="mistral")
    used(WORK, "ruled", "1", status=200, rule="title")

    def listed(**query: str) -> set[str]:
        page = text(root.get(reverse(LIST), query))
        return {model for model in ("good", "bad", "ruled") if f"Asked {model}" in page}

    assert listed(provider="mistral") == listed(status="429") == listed(status="4xx") == {"bad"}
    assert listed(status="200") == listed(status="2xx") == {"good", "ruled"}
    assert listed(rule="any") == listed(rule="title") == listed(model="ruled") == {"ruled"}
    assert listed(partition_name=WORK.partition) == {"bad", "ruled"}
    assert listed(partition_name=WORK.partition, status="200") == {"ruled"}
    assert listed(rule="x") == listed(status="odd") == listed(partition_name="none") == listed(model="\x00odd") == set()


def test_a_typed_filter_keeps_the_others_and_the_search(root: Client) -> None:
    used(HOME, "good", "1")
    page = text(root.get(reverse(LIST), {"provider": "openai", "ended__exact": "answered", "q": "Asked"}))
    form = page[page.index('name="model"') - 600 : page.index('name="model"')]
    for name, value in (("provider", "openai"), ("ended__exact", "answered"), ("q", "Asked")):
        assert f'<input type="hidden" name="{name}" value="{value}">' in form


def test_the_dashboard_warns_when_memory_is_degraded(root: Client) -> None:
    for number in range(3):
        used(HOME, f"m{number}", "1")
    assert "Memory was late or failed" not in text(root.get(reverse("admin:index")))
    used(HOME, "slow", "1", memory="degraded")
    assert "Memory was late or failed in 1 of the 4" in " ".join(text(root.get(reverse("admin:index"))).split())
    Exchange.objects.update(created=timezone.now() - timedelta(hours=2))
    assert "Memory was late or failed" not in text(root.get(reverse("admin:index")))


def key_of(name: str) -> str:
    """The public id of a new key."""
    wanted = Wanted(name=name, rights=APP, partitions=["*"], instances=["*"])
    return keys.create(wanted, Who(actor="tester")).public_id


def test_usage_and_exchanges_are_told_by_access_key(root: Client) -> None:
    shop, desk = key_of("shop"), key_of("desk")
    used(HOME, "dear", "5", key_id=shop)
    used(HOME, "fair", "2", key_id=desk)
    one = used(WORK, "cheap", "1", key_id=shop)
    used(WORK, "open", "0.5")
    keys.revoke(keys.find("shop"), Who(actor="tester"))
    rows = list(csv.DictReader(io.StringIO(printed("--csv", "--by", "key"))))
    assert [(row["key"], Decimal(row["dollars"])) for row in rows] == [
        (f"shop ({shop})", 6),
        (f"desk ({desk})", 2),
        ("none", Decimal("0.5")),
    ]
    assert f"shop ({shop})" in text(root.get(reverse("admin:usage"), {"by": "key"}))
    for named in ("shop", shop):
        page = text(root.get(reverse(LIST), {"key": named}))
        assert "Asked dear" in page and "Asked cheap" in page and "Asked fair" not in page and "Asked open" not in page
    assert "Asked" not in text(root.get(reverse(LIST), {"key": "nobody"}))
    assert f"shop ({shop})" in text(root.get(reverse("admin:conversations_exchange_change", args=[one.pk])))


def test_limited_users_learn_of_no_access_key() -> None:
    shop = key_of("shop")
    one = used(HOME, "dear", "5", key_id=shop)
    ann = browser(staff("ann", "Viewer", only=(HOME.partition,)))
    for address, query in [
        (reverse("admin:usage"), {"by": "key"}),
        (reverse("admin:usage"), {"by": "key", "format": "csv"}),
        (reverse(LIST), {}),
        (reverse("admin:conversations_exchange_change", args=[one.pk]), {}),
    ]:
        answer = ann.get(address, query)
        assert answer.status_code == 200
        assert shop not in text(answer) and "shop (" not in text(answer), address
    for lookup in ("key", "key_id", "key_id__startswith"):
        assert ann.get(reverse(LIST), {lookup: shop[:3]}).status_code == 400


def test_lists_take_no_conditions_on_columns_that_no_filter_offers() -> None:
    used(HOME, "dear", "5")
    guest = User.objects.create_user("guest", is_staff=True)
    guest.user_permissions.set(Permission.objects.filter(codename__in=["view_exchange", "view_instance"]))
    client = browser(guest)
    for lookup in ("parameters__contains", "prompts__0__1__contains", "question__content__contains", "error__regex"):
        assert client.get(reverse(LIST), {lookup: "e"}).status_code == 400, lookup
    assert client.get(reverse(LIST), {"ended__exact": "answered", "provider": "openai"}).status_code == 200
    assert client.get(reverse("admin:conversations_instance_changelist"), {"name__contains": "e"}).status_code == 400
