"""The dashboard: what cost how much, by whom and when; and what it warns of."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from decimal import Decimal
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.cache import cache
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from access import keys
from access.audit import Who
from access.keys import Wanted
from access.rights import APP
from conversations.models import Exchange, Message
from conversations.querysets import Scope
from proxy import runtime
from tests.integration.admin.data import exchange, staff
from tests.integration.admin.pages import HOME, WORK, browser, text

pytestmark = pytest.mark.django_db
DASHBOARD = "admin:index"


@pytest.fixture(autouse=True)
def nothing_cached() -> None:
    cache.clear()


def used(model: str, dollars: str, *, scope: Scope = HOME, when: datetime | None = None, **fields: Any) -> Exchange:
    one = exchange(scope, f"Asked {model}", "Answered.")
    given = {"model": model, "cost": Decimal(dollars), "input_tokens": 100, "output_tokens": 10} | fields
    Exchange.objects.filter(pk=one.pk).update(created=when or timezone.now(), **given)
    return one


def shown(client: Client, **asked: str) -> str:
    return " ".join(text(client.get(reverse(DASHBOARD), {"summed": "1", **asked})).split())


def table(page: str, title: str) -> list[tuple[str, ...]]:
    """The rows of a table: name, cost, tokens, exchanges, errors."""
    (body,) = re.findall(rf"<h2>{title}</h2>.*?<tbody>(.*?)</tbody>", page)
    rows = re.findall(r"<tr>(.*?)</tr>", body)
    return [tuple(re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<td.*?</td>", row)) for row in rows]


def test_costs_tokens_and_errors_stand_by_model_partition_and_key(root: Client) -> None:
    wanted = Wanted(name="shop", rights=APP, partitions=["*"], instances=["*"])
    shop = keys.create(wanted, Who(actor="tester")).public_id
    used("dear", "5", key_id=shop, ended="failed")
    used("cheap", "0.5", scope=WORK)
    used("cheap", "0.25", scope=WORK)
    page = shown(root)
    assert table(page, "Models") == [("dear", "$5.00", "110", "1", "1"), ("cheap", "$0.75", "220", "2", "0")]
    assert table(page, "Partitions") == [("home", "$5.00", "110", "1", "1"), ("work", "$0.75", "220", "2", "0")]
    assert [row[0] for row in table(page, "Access keys")] == [f"shop ({shop})", "none"]
    limited = shown(browser(staff("ann", "Viewer", only=(WORK.partition,))))
    assert [row[0] for row in table(limited, "Models")] == ["cheap"] and "dear" not in limited and shop not in limited


def test_yesterday_has_a_window_of_its_own_whose_rows_lead_to_its_exchanges(root: Client) -> None:
    midnight = timezone.now().replace(hour=0, minute=0, second=0, microsecond=0)
    used("today", "1", when=midnight)
    used("late", "2", when=midnight - timedelta(seconds=1))
    used("early", "3", when=midnight - timedelta(days=1))
    used("before", "4", when=midnight - timedelta(days=1, seconds=1))
    page = shown(root, window="yesterday")
    assert [row[:2] for row in table(page, "Models")] == [("early", "$3.00"), ("late", "$2.00")]
    (link,) = re.findall(r'<a href="([^"]+)"><bdi>late</bdi>', page)
    listed = text(root.get(unescape(link)))
    assert "Asked late" in listed and "Asked today" not in listed and "Asked early" not in listed


def test_imported_exchanges_are_no_provider(root: Client) -> None:
    used("", "0", provider="")
    used("gpt", "1", provider="openai", ended="cut")
    page = shown(root)
    assert "unknown" not in page
    assert re.search(r">imported</a></th><td>1 exchange from files", page)
    (failed,) = re.findall(r'<a class="bad" href="([^"]+)">1 failed</a>', page)
    listed = text(root.get(unescape(failed)))
    assert "Asked gpt" in listed and "failed or cut" in listed


def test_each_chart_has_its_legend(root: Client) -> None:
    used("gpt", "1")
    legends = re.findall(r'<figcaption>(\w+)<span class="legend">(.*?)</figcaption>', shown(root))
    assert [(name, re.findall(r"</span>([^<]+)</span>", legend)) for name, legend in legends] == [
        ("Exchanges", ["answered", "failed or cut"]),
        ("Memory", ["with memories", "without"]),
        ("Tokens", ["in", "out"]),
        ("Cost", ["US dollars"]),
    ]


def test_it_warns_when_messages_wait_too_long_for_a_vector(root: Client) -> None:
    exchange(HOME, "I keep bees.", "Lovely.")
    Message.objects.update(embed_due=timezone.now())
    assert "wait for a vector, the oldest" not in shown(root)
    Message.objects.update(embed_due=timezone.now() - timedelta(minutes=11))
    assert "2 messages wait for a vector, the oldest for over 10 minutes" in shown(root)
    assert "the oldest for over" not in shown(browser(staff("ann", "Viewer", only=(HOME.partition,))))


def test_it_warns_of_the_spool_and_of_a_lost_exchange(
    root: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("console.alerts.spool_folder", lambda: tmp_path)
    memory = SimpleNamespace(lost_lately=False)
    monkeypatch.setattr(runtime, "_current", SimpleNamespace(memory=memory))
    assert 'role="alert"' not in shown(root)
    (tmp_path / "1.spool").write_bytes(b"x" * 5000)
    memory.lost_lately = True
    page = shown(root)
    assert "5.0 kB of exchanges wait in this host" in page and "neither in the database nor in the spool" in page
