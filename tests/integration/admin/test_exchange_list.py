"""The list of exchanges: picked filters with counts, days, order, search by names, folded steps, and files."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
from datetime import timedelta
from decimal import Decimal
from html import unescape
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db.models import F
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from access.models import AuditRecord
from conversations.models import Exchange
from conversations.querysets import Scope
from tests.integration.admin.data import exchange, staff
from tests.integration.admin.pages import HOME, WORK, browser, text

pytestmark = pytest.mark.django_db
LIST = "admin:conversations_exchange_changelist"


def made(name: str, *, scope: Scope = HOME, days: float = 0, **fields: Any) -> Exchange:
    """An exchange from `days` days ago, whose question is its name."""
    one = exchange(scope, f"about {name}", "Answered.")
    Exchange.objects.filter(pk=one.pk).update(created=timezone.now() - timedelta(days=days), **fields)
    return one


def listed(client: Client, **asked: str) -> list[str]:
    return re.findall(r">about (\w+)<", text(client.get(reverse(LIST), asked)))


def test_filters_are_picked_from_what_is_listed_with_counts(root: Client) -> None:
    for name in ("one", "two", "three"):
        made(name, provider="openai", model="gpt-4o")
    made("four", provider="mistral", model="small", ended="failed", status=429)
    made("five", provider="", model="")
    page = " ".join(text(root.get(reverse(LIST))).split())
    assert re.search(r'href="\?provider=openai"[^>]*>openai <span class="count">3</span>', page)
    assert re.search(r'href="\?provider=mistral"[^>]*>mistral <span class="count">1</span>', page)
    assert re.search(r'href="\?ended__exact=failed"[^>]*>provider failed <span class="count">1</span>', page)
    assert re.search(r'href="\?status=429"[^>]*>429 <span class="count">1</span>', page)
    assert listed(root, provider="imported") == ["five"]
    narrowed = " ".join(text(root.get(reverse(LIST), {"provider": "mistral"})).split())
    assert re.search(r'href="\?provider=mistral&amp;model=small"[^>]*>small <span', narrowed), narrowed
    assert "?provider=openai" in narrowed, "what exists can be picked instead"


def test_a_limited_user_is_offered_only_what_their_own_rows_have() -> None:
    made("home", provider="openai", model="gpt-4o")
    made("work", scope=WORK, provider="hush-provider", model="hush-model")
    limited = browser(staff("ann", "Viewer", only=(HOME.partition,)))
    page = text(limited.get(reverse(LIST)))
    assert "gpt-4o" in page and "hush" not in page and WORK.partition not in page
    assert listed(limited, partition_name=WORK.partition) == listed(limited, q="hush") == []


def test_days_are_picked_or_written(root: Client) -> None:
    midnight = timezone.now().replace(hour=0, minute=0, second=0, microsecond=0)
    for name, before in (("yesterday", timedelta(hours=1)), ("older", timedelta(days=20))):
        Exchange.objects.filter(pk=made(name).pk).update(created=midnight - before)
    made("today")
    page = unescape(text(root.get(reverse(LIST))))
    days = dict(re.findall(r'<a href="\?(first=[^"]+)">([^<]+)</a>', page))
    addresses = {name: address for address, name in days.items()}
    assert list(addresses) == ["Today", "Yesterday", "Last 7 days", "Last week", "Last 30 days"]

    def of(name: str) -> list[str]:
        return listed(root, **dict(pair.split("=") for pair in addresses[name].split("&")))

    assert of("Today") == ["today"] and of("Yesterday") == ["yesterday"]
    assert of("Last 30 days") == ["today", "yesterday", "older"]
    assert listed(root, first="9999-12-31", last="0001-01-01") == ["today", "yesterday", "older"]
    assert listed(root, last=str((midnight - timedelta(days=10)).date())) == ["older"]


def test_a_sorted_list_begins_with_the_largest_and_leaves_out_what_is_unknown(root: Client) -> None:
    huge = 2**31 - 1
    made("cheap", cost=Decimal("0.1"), input_tokens=huge, output_tokens=huge, timings={"total": 9.5})
    made("dear", cost=Decimal("2.5"), input_tokens=1, output_tokens=1, timings={"total": 100})
    made("unknown", cost=None, input_tokens=None, output_tokens=None, timings={})
    assert listed(root, o="7") == ["dear", "cheap"] and listed(root, o="-7") == ["cheap", "dear"]
    assert listed(root, o="6") == ["cheap", "dear"] and listed(root, o="8") == ["dear", "cheap"]
    assert listed(root, o="0") == ["unknown", "dear", "cheap"] and listed(root, o="-0") == ["cheap", "dear", "unknown"]
    assert listed(root, o="3") == listed(root)


def test_the_search_finds_names_of_providers_and_models(root: Client) -> None:
    made("one", provider="mistral", model="mistral-large")
    made("two", provider="openai", model="gpt-4o")
    made("mistral", provider="openai", model="o3")
    assert listed(root, q="mistral") == ["mistral", "one"]
    assert listed(root, q="GPT") == ["two"]
    figures = User.objects.create_user("figures", is_staff=True)
    figures.user_permissions.set(staff("v", "Viewer").groups.get().permissions.filter(codename="view_exchange"))
    page = text(browser(figures).get(reverse(LIST), {"q": "mistral"}))
    assert page.count("mistral-large") and "about" not in page and page.count('class="field-at') == 1
    assert browser(figures).get(reverse(LIST), {"q": "one"}).status_code == 403


def test_the_steps_of_a_tool_loop_are_told_apart_and_summed_up(root: Client) -> None:
    first, second = made("loop", cost=Decimal("0.2")), made("more", cost=Decimal("0.3"))
    Exchange.objects.filter(pk=second.pk).update(question=first.question)
    made("alone")
    page = text(root.get(reverse(LIST)))
    assert f'data-steps="{first.question_id}"' in page and "2 steps, $0.5" in page
    assert page.count("data-step-of=") == 1
    assert "data-steps" not in text(root.get(reverse(LIST), {"o": "7"}))


def streamed(client: Client, **asked: str) -> str:
    answer: Any = client.get(reverse("admin:conversations_exchange_export"), asked)
    assert answer.status_code == 200

    async def read() -> bytes:
        return b"".join([piece async for piece in answer])

    return asyncio.run(read()).decode()


@pytest.mark.django_db(transaction=True)
def test_what_is_filtered_comes_as_csv_and_as_json_lines(root: Client) -> None:
    made("one", model="=gpt", cost=Decimal("1.5"), ended="failed", error="slow, down", status=429)
    made("two", model="other", provider="mistral")
    (row,) = csv.DictReader(io.StringIO(streamed(root, provider="openai", format="csv")))
    assert (row["model"], row["dollars"], row["error"], row["status"]) == ("'=gpt", "1.5", "slow, down", "429")
    lines = [json.loads(line) for line in streamed(root, o="7", format="jsonl").splitlines()]
    assert [line["model"] for line in lines] == ["=gpt"], "sorted by cost, which is unknown for the other"
    assert len(streamed(root, format="jsonl").splitlines()) == 2
    assert root.get(reverse("admin:conversations_exchange_export"), {"format": "xml"}).status_code == 404
    assert AuditRecord.objects.filter(action="exported").count() == 3
    limited = browser(staff("ann", "Viewer", only=(WORK.partition,)))
    assert streamed(limited, format="jsonl") == ""
    guest = browser(User.objects.create_user("guest", is_staff=True))
    assert guest.get(reverse("admin:conversations_exchange_export")).status_code == 403


def test_numbers_too_large_for_an_integer_are_stored_and_summed(root: Client) -> None:
    one = made("large")
    Exchange.objects.filter(pk=one.pk).update(input_tokens=2**31 - 1, output_tokens=F("input_tokens") * 0 + 2**31 - 1)
    Exchange.objects.filter(pk=one.pk).update(model="m" * 5000, provider="p" * 5000)
    assert listed(root, model="m" * 5000) == ["large"] and listed(root, model="m" * 300) == []
