"""How many queries the admin's pages make on a large database, and what they load later."""

from __future__ import annotations

import re
from html import unescape

import pytest
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils.safestring import SafeString

from console import safe_text
from conversations.querysets import Scope
from tests.integration.admin.data import exchange, said
from tests.integration.admin.pages import HOME, change, every_page, text

pytestmark = pytest.mark.django_db


def test_pages_take_few_queries_and_count_no_large_table(root: Client) -> None:
    for i in range(3):
        one = exchange(HOME, f"I keep bees {i}.", "Lovely.", minutes=i)
    count = re.compile(
        r'COUNT\(.{1,40}FROM "?conversations_(message|exchange|embedding|ledger)"?(?! WHERE)', re.IGNORECASE
    )
    for url in every_page(one):
        with CaptureQueriesContext(
            connection,
        ) as queries:
            text(root.get(url))
        asked = [query["sql"] for query in queries if "pg_temp" not in query["sql"] and "doomed" not in query["sql"]]
        limit = 30 if "/prune/" in url else 14
        assert len(asked) <= limit, (url, asked)
        assert not [sql for sql in asked if count.search(sql)], url
        assert not [sql for sql in asked if "SELECT DISTINCT" in sql], url


def test_the_number_of_queries_does_not_grow_with_the_rows(root: Client) -> None:
    def queries(url: str) -> int:
        with CaptureQueriesContext(connection) as asked:
            text(root.get(url))
        return len(asked)

    one = exchange(HOME, "I keep bees.", "Lovely.")
    urls = [url for url in every_page(one) if "prune" not in url]
    few = [queries(url) for url in urls]
    for i in range(8):
        exchange(HOME, f"I keep bees {i}.", "Lovely.", minutes=i + 1)
        exchange(Scope(f"p{i}", "other"), f"More bees {i}.", "Lovely.", minutes=i + 1)
    many = [queries(url) for url in urls]
    assert [(url, a, b) for url, a, b in zip(urls, few, many, strict=True) if b > a + 1] == []


@pytest.mark.parametrize(
    ("model", "query", "index"),
    [
        ("exchange", "ended__exact=gone", "exchange_not_answered"),
        ("exchange", "memory=degraded", "exchange_without_memory"),
        ("exchange", "rule=any", "exchange_by_rule"),
        ("exchange", "status=429", "exchange_not_answered"),
        ("exchange", "provider=openai&model=gpt-4o", "exchange_by_provider_and_model"),
        ("exchange", "q=gpt", "exchange_by_provider_and_model"),
        ("exchange", "o=7", "exchange_by_cost"),
        ("exchange", "o=-7", "exchange_by_cost"),
        ("exchange", "o=6", "exchange_by_tokens"),
        ("exchange", "o=8", "exchange_by_duration"),
        ("exchange", "o=-8", "exchange_by_duration"),
        ("message", "role=tool", "message_of_tool"),
    ],
)
def test_rare_values_are_listed_through_an_index(root: Client, model: str, query: str, index: str) -> None:
    exchange(HOME, "I keep bees.", "Lovely.")
    with CaptureQueriesContext(connection) as queries:
        text(root.get(reverse(f"admin:conversations_{model}_changelist") + "?" + query))
    (page,) = (query["sql"] for query in queries if query["sql"].endswith("LIMIT 250"))
    with connection.cursor() as cursor:
        cursor.execute(
            "SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off; SET LOCAL enable_incremental_sort = off"
        )
        cursor.execute("EXPLAIN " + page)
        plan = "\n".join(line for (line,) in cursor.fetchall())
        assert index in plan, plan
        if query.startswith("o="):
            assert "Sort" not in plan, plan


def test_lists_sort_only_by_columns_that_offer_it(root: Client) -> None:
    exchange(HOME, "I keep bees.", "Lovely.")
    for model in ("partition", "instance", "exchange", "message"):
        for column in range(9):
            with CaptureQueriesContext(connection) as queries:
                text(root.get(reverse(f"admin:conversations_{model}_changelist"), {"o": column}))
            sorts = " ".join(query["sql"].partition("ORDER BY")[2] for query in queries)
            assert "conversations_exchange" not in sorts or model == "exchange"
            assert '"model"' not in sorts


def test_the_dashboards_figures_load_later_and_are_cached(root: Client) -> None:
    cache.clear()
    exchange(HOME, "I keep bees.", "Lovely.", minutes=0)
    page = text(root.get(reverse("admin:index"), {"window": "month"}))
    assert 'href="?window=month&amp;summed=1"' in page and "With memories" not in page and "I keep bees." in page
    with CaptureQueriesContext(connection) as queries:
        page = text(root.get(reverse("admin:index"), {"window": "month", "summed": "1"}))
    assert "With memories" in page and "summed=1" not in page
    with CaptureQueriesContext(connection) as fewer:
        assert "With memories" in text(root.get(reverse("admin:index"), {"window": "month"}))
    assert len(fewer) == len(queries) - 1


def test_the_map_loads_after_its_page(root: Client) -> None:
    one = exchange(HOME, "I keep bees.", "Lovely.")
    url = reverse("admin:map", args=[one.instance_id])
    with CaptureQueriesContext(connection) as queries:
        page = text(root.get(url))
    assert 'href="?drawn=1"' in page and "of 2 messages" in page
    assert not [query for query in queries if "conversations_embedding" in query["sql"]]


def test_a_list_offers_a_limited_number_of_pages(root: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("console.lists.paging.MOST_PAGES", 2)
    monkeypatch.setattr("console.lists.messages.MessageAdmin.list_per_page", 3)
    for i in range(6):
        exchange(HOME, f"question {i}", f"answer {i}", minutes=i)
    page = text(root.get(reverse("admin:conversations_message_changelist")))
    assert "More than 6" in page and "answer 5" in page and "question 3" not in page
    second = text(root.get(reverse("admin:conversations_message_changelist") + "?p=2"))
    assert "question 3" in second and "question 5" not in second


def test_a_long_resent_history_is_not_laid_out_whole_to_show_a_part(
    root: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    laid_out: list[str] = []
    formatted = safe_text.formatted

    def noted(given: str) -> SafeString:
        laid_out.append(given)
        return formatted(given)

    monkeypatch.setattr(safe_text, "formatted", noted)
    history = tuple(said("user", f"turn {i}") for i in range(500))
    page = text(root.get(change(exchange(HOME, "And now?", "Now.", history=history))))
    assert "turns of the client's history are not shown here" in unescape(page)
    assert 0 < len(laid_out) < 50
