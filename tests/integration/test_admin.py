"""The admin over HTTP, on a real database: what its pages say, to whom, and in how many queries."""

from __future__ import annotations

import json
import re
import shlex
from html import unescape
from typing import Any
from urllib.parse import urlencode

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils.safestring import SafeString

from conversations import lookup
from conversations.admin import safe_text, storage
from conversations.models import AuditEntry, Exchange, Instance, Ledger, Message, Partition
from conversations.querysets import SCRATCH, Scope
from tests.integration.admin_data import answer_of, exchange, question_of, said, staff

pytestmark = pytest.mark.django_db

HOME = Scope("home", "kitchen")
WORK = Scope("work", "payments")
BLOCK = '{"role": "system", "content": "<memory>\\nnotes\\n- 08:00 user: I keep bees.\\n</memory>"}'


@pytest.fixture
def root() -> Client:
    return browser(User.objects.create_superuser("root"))


def browser(user: User) -> Client:
    client = Client(headers={"host": "localhost"})
    client.force_login(user)
    return client


def change(of: Any) -> str:
    return reverse(f"admin:conversations_{of._meta.model_name}_change", args=[of.pk])


def text(response: Any) -> str:
    assert response.status_code == 200, response.status_code
    return str(response.content.decode())


def every_page(one: Exchange) -> list[str]:
    instance = one.instance
    lists = [
        reverse(f"admin:conversations_{name}_changelist") for name in ("partition", "instance", "exchange", "message")
    ]
    return [
        reverse("admin:index"),
        reverse("admin:index") + "?window=month&summed=1",
        *lists,
        f"{lists[2]}?instance={instance.pk}",
        f"{lists[2]}?partition={instance.partition_id}&ended=answered&memory=on",
        f"{lists[2]}?q={one.trace_id}",
        f"{lists[3]}?q=bees",
        f"{lists[3]}?role=user&instance={instance.pk}",
        change(instance.partition),
        change(instance),
        f"{change(instance)}?date=2026-05-01",
        change(one),
        change(answer_of(one)),
        reverse("admin:map", args=[instance.pk]),
        reverse("admin:map", args=[instance.pk]) + "?drawn=1",
        reverse("admin:search") + f"?q=bees&instance={instance.pk}",
        reverse("admin:prune") + f"?instance={instance.pk}",
        reverse("admin:prune") + f"?exchange={one.pk}",
        reverse("admin:prune")
        + "?"
        + urlencode({"partition_name": instance.partition.name, "whole": "on", "counted": 1}),
    ]


def test_an_exchange_shows_the_answer_the_memory_it_came_from_and_why(root: Client) -> None:
    bees = exchange(HOME, "I keep bees.", "How lovely.")
    answer = "A jar of honey from your bees."
    asked = exchange(HOME, "What shall I give Ann?", answer, minutes=9, shown=(question_of(bees),), injected=(BLOCK,))
    page = text(root.get(change(asked)))
    assert "<mark>bees</mark>" in page, "the word that the memory brought into the answer"
    assert "added by Reservoir" in page
    assert "relevant" in page and "1.50" in page and "meaning" in page
    assert "180 ms" in page and "prompt tokens" in page
    assert change(bees.question) in page


def test_an_exchange_says_which_of_the_app_s_turns_the_window_had_no_room_for(root: Client) -> None:
    history = (said("user", "I keep bees."), said("assistant", "How lovely."), said("user", "And goats."))
    asked = exchange(HOME, "What do I keep?", "Goats.", history=history, left_out=(0, 1), injected=(BLOCK,))
    page = text(root.get(change(asked)))
    assert "2 turns of the client's history were left out here" in unescape(page)
    assert "5 from the app, 2 of them left out, 1 added" in page
    sent, got = re.findall(r"as JSON</summary><pre>(.*?)</pre>", page, re.DOTALL)
    assert "I keep bees." in json.loads(unescape(sent))["messages"][1]["content"]
    roles = [message["role"] for message in json.loads(unescape(got))["messages"]]
    assert roles == ["system", "user", "system", "user"], "the prompt, what is left, the memory, the question"
    assert "How lovely." not in got


def test_a_resent_history_of_thousands_is_not_laid_out_to_show_some_of_it(
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


def test_partitions_that_are_there_to_measure_with_are_nowhere_to_be_seen(root: Client) -> None:
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


def test_the_copied_curl_asks_the_same_without_memory_and_keeps_nothing(root: Client) -> None:
    asked = exchange(Scope("it's", "a/b c"), "What's $5 in `yen`?", "Much.", injected=(BLOCK,))
    page = text(root.get(change(asked)))
    found = re.search(r'<pre id="curl">(.*?)</pre>', page, re.DOTALL)
    assert found
    words = shlex.split(unescape(found[1]).replace("\\\n", " "))
    assert words[1] == "http://localhost/v1/partition/it%27s/instance/a%2Fb%20c/chat/completions"
    assert "X-Reservoir-Recall: off" in words and "X-Reservoir-Store: off" in words
    assert "Authorization: Bearer $OPENAI_API_KEY" in words
    body = words[words.index("-d") + 1]
    assert json.loads(body) == {
        "model": "gpt-4o",
        "temperature": 0.3,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What's $5 in `yen`?"}],
    }
    assert '"temperature": 0.30' in body, "as the app wrote it"


def test_nothing_was_added_is_not_said_to_be_nothing_found(root: Client) -> None:
    bees = exchange(HOME, "I keep bees.", "How lovely.")
    asked = exchange(HOME, "What do I keep?", "Who knows.", minutes=9, shown=(question_of(bees),))
    assert "Nothing was found" in text(root.get(change(bees)))
    Ledger.objects.filter(exchange=asked).update(message_ids=[], candidates=[{"id": question_of(bees), "kept": False}])
    assert "of each of the 1 message that" in text(root.get(change(asked)))


def test_a_table_that_postgresql_has_not_looked_at_has_no_number_of_rows() -> None:
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE conversations_ledger")
    assert {table.name: table.rows for table in storage.tables()}["ledgers"] is None


def test_a_failed_exchange_says_what_went_wrong(root: Client) -> None:
    failed = exchange(HOME, "Hello?", "", ended="failed", error="rate_limit: slow down")
    assert "rate_limit: slow down" in text(root.get(change(failed)))
    assert "rate_limit: slow down" not in text(root.get(reverse("admin:conversations_exchange_changelist")))


def test_a_conversation_is_paged_by_time_and_jumps_to_dates_and_messages(
    root: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("conversations.admin.dialogue.A_PAGE", 10)
    for i in range(15):
        exchange(HOME, f"question {i:02}", f"answer {i:02}", minutes=i * 60 * 12)
    instance = Instance.objects.get()
    latest = text(root.get(change(instance)))
    assert "question 14" in latest and "answer 10" in latest and "question 09" not in latest
    assert latest.index("answer 10") < latest.index("question 11")
    earlier = re.search(r"\?before=(\d+)", latest)
    assert earlier
    before = text(root.get(f"{change(instance)}?before={earlier[1]}"))
    assert "question 09" in before and "question 05" in before and "question 10" not in before
    assert "question 04" not in before
    after = re.search(r"\?after=(\d+)", before)
    assert after
    assert "question 10" in text(root.get(f"{change(instance)}?after={after[1]}"))
    on = text(root.get(f"{change(instance)}?date=2026-05-03"))
    assert "question 04" in on and "question 03" not in on and "Sunday, 3 May 2026" in on
    at = Message.objects.get(content="answer 06")
    around = text(root.get(f"{change(instance)}?at={at.pk}"))
    assert f'id="m{at.pk}"' in around and "answer 04" in around and "answer 08" in around
    for nonsense in ("?date=2026-13-45", "?before=999999", "?at=x", "?after=99999999999999999999999"):
        assert "question 14" in text(root.get(change(instance) + nonsense))


def test_search_finds_by_words_and_opens_the_exchange_of_a_trace_id(root: Client) -> None:
    one = exchange(HOME, "Where are the beekeepers?", "In the garden.")
    exchange(WORK, "Where is the beekeeper's invoice?", "Lost.")
    everywhere = text(root.get(reverse("admin:search"), {"q": "beekeepers"}))
    assert everywhere.count("<article") == 2 and "<mark>beekeepers</mark>" in everywhere
    here = text(root.get(reverse("admin:search"), {"q": "beekeepers", "instance": str(one.instance_id)}))
    assert here.count("<article") == 1
    found = root.get(reverse("admin:search"), {"q": str(one.trace_id)})
    assert found.status_code == 302 and found.headers["Location"] == change(one)
    for odd in ('"', "a & | !", "' OR 1=1 --", "\x00", "🐝" * 500, "the of and"):
        assert root.get(reverse("admin:search"), {"q": odd}).status_code == 200, odd


def test_forgetting_shows_first_and_then_removes_exactly_that(root: Client) -> None:
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


def test_what_has_changed_since_it_was_shown_is_shown_again(root: Client) -> None:
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
def test_criteria_narrow_what_is_forgotten(root: Client, criteria: dict[str, str], goes: int) -> None:
    exchange(HOME, "x" * 300, "Yes.")
    exchange(HOME, "Honey?", "No.", minutes=60 * 24)
    exchange(WORK, "Honey?", "At work.")
    url = reverse("admin:prune")
    page = text(root.get(url, {"partition_name": "home", **criteria}))
    link = re.search(r'href="(\?[^"]+&amp;counted=1)">Count what would go', page)
    assert link and "This would go" not in page and "in 4 messages" in page, "the page does not wait for the count"
    assert f"<b>{goes}</b> messages" in text(root.get(url + unescape(link[1])))


def test_forgetting_asks_back_where_nothing_says_what(root: Client) -> None:
    exchange(HOME, "One", "1")
    page = text(root.get(reverse("admin:prune"), {"partition_name": "home"}))
    assert "Nothing says which messages" in page and 'name="sealed"' not in page
    assert "There is no such partition" in text(
        root.get(reverse("admin:prune"), {"partition_name": "none", "whole": "on"})
    )


def test_retention_is_set_for_a_partition(root: Client) -> None:
    exchange(HOME, "One", "1")
    partition = Partition.objects.get()
    root.post(reverse("admin:retention", args=[partition.pk]), {"keep_days": "30"})
    partition.refresh_from_db()
    assert partition.keep_days == 30 and "keeps 30 days" in text(root.get(change(partition)))
    root.post(reverse("admin:retention", args=[partition.pk]), {"keep_days": "-1"})
    partition.refresh_from_db()
    assert partition.keep_days == 30


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
    nobody = browser(User.objects.create_user("nobody", is_staff=True))
    for url in every_page(one)[2:]:
        assert nobody.get(url).status_code == 403, url
    assert "bees" not in text(nobody.get(reverse("admin:index")))
    visitor = Client(headers={"host": "localhost"})
    for url in every_page(one):
        assert visitor.get(url).status_code == 302, url


def test_a_limited_user_meets_only_what_lies_in_those_partitions() -> None:
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


def test_a_limit_that_came_after_the_dry_run_holds(root: Client) -> None:
    one = exchange(HOME, "One", "1")
    user = staff("pia", "Pruner")
    client = browser(user)
    sealed = re.search(
        r'name="sealed" value="([^"]+)"', text(client.get(reverse("admin:prune"), {"message": question_of(one)}))
    )
    assert sealed
    from conversations.models import StaffLimit

    StaffLimit.objects.create(user=user)
    assert client.post(reverse("admin:prune"), {"sealed": sealed[1]}).status_code == 403
    assert Message.objects.count() == 2


HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)> [go](javascript:alert(3)) ![p](https://evil.example/p.png) "
    "</textarea></pre><svg/onload=alert(4)> \x1b[31mred \u202egnp.exe {{ 7|add:7 }} &lt;b&gt; [d](data:text/html,x)"
)


def test_hostile_text_stays_text_on_every_page(root: Client) -> None:
    scope = Scope('"><script>alert(5)</script>', "\u202e<img src=x onerror=alert(6)>")
    kept = exchange(scope, HOSTILE + " bees", HOSTILE)
    block = json.dumps({"role": "system", "content": "<memory>" + HOSTILE})
    one = exchange(scope, HOSTILE, HOSTILE, minutes=3, shown=(question_of(kept),), injected=(block,), error=HOSTILE)
    assert kept.instance_id == one.instance_id
    for url in [*every_page(one), reverse("admin:search") + "?q=red"]:
        response = root.get(url)
        # A field to type a name into holds the name itself.
        page = re.sub(r'(name="(instance|partition)_name" value=")[^"]*"', r"\1", text(response))
        for markup in (
            "<script>alert",
            "<img src=x",
            "<svg/onload",
            "\u202e",
            "\x1b",
            'href="javascript:',
            'href="data:',
        ):
            assert markup not in page, (url, markup)
        assert 'src="https://evil' not in page, url
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "script-src 'self';" in policy and "unsafe" not in policy
        assert not re.search(r"<script(?![^>]*(?: src=| type=\"application/json\"))", page), url
        assert " style=" not in page and " onclick=" not in page, url


def test_no_page_counts_a_large_table_and_all_take_few_queries(root: Client) -> None:
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


def test_more_rows_take_no_more_queries(root: Client) -> None:
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
        ("message", "role=tool", "message_of_tool"),
    ],
)
def test_what_is_rare_is_listed_by_an_index(root: Client, model: str, query: str, index: str) -> None:
    exchange(HOME, "I keep bees.", "Lovely.")
    with CaptureQueriesContext(connection) as queries:
        text(root.get(reverse(f"admin:conversations_{model}_changelist") + "?" + query))
    (page,) = (query["sql"] for query in queries if query["sql"].endswith("LIMIT 250"))
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute("EXPLAIN " + page)
        assert index in "".join(line for (line,) in cursor.fetchall())


def test_no_list_is_sorted_by_a_column_that_does_not_offer_it(root: Client) -> None:
    exchange(HOME, "I keep bees.", "Lovely.")
    for model in ("partition", "instance", "exchange", "message"):
        for column in range(9):
            with CaptureQueriesContext(connection) as queries:
                text(root.get(reverse(f"admin:conversations_{model}_changelist"), {"o": column}))
            sorts = " ".join(query["sql"].partition("ORDER BY")[2] for query in queries)
            assert "conversations_exchange" not in sorts or model == "exchange"
            assert '"model"' not in sorts


def test_figures_come_after_the_dashboard_and_are_kept_for_a_while(root: Client) -> None:
    cache.clear()
    exchange(HOME, "I keep bees.", "Lovely.", minutes=0)
    page = text(root.get(reverse("admin:index"), {"window": "month"}))
    assert 'href="?window=month&amp;summed=1"' in page and "With memories" not in page and "I keep bees." in page
    with CaptureQueriesContext(connection) as queries:
        page = text(root.get(reverse("admin:index"), {"window": "month", "summed": "1"}))
    assert "With memories" in page and "summed=1" not in page
    with CaptureQueriesContext(connection) as fewer:
        assert "With memories" in text(root.get(reverse("admin:index"), {"window": "month"}))
    assert len(fewer) == len(queries) - 2


def test_the_map_comes_after_its_page(root: Client) -> None:
    one = exchange(HOME, "I keep bees.", "Lovely.")
    url = reverse("admin:map", args=[one.instance_id])
    with CaptureQueriesContext(connection) as queries:
        page = text(root.get(url))
    assert 'href="?drawn=1"' in page and "of 2 messages" in page
    assert not [query for query in queries if "conversations_embedding" in query["sql"]]


def test_a_list_offers_no_more_pages_than_somebody_turns(root: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conversations.admin.paging.MOST_PAGES", 2)
    monkeypatch.setattr("conversations.admin.lists.MessageAdmin.list_per_page", 3)
    for i in range(6):
        exchange(HOME, f"question {i}", f"answer {i}", minutes=i)
    page = text(root.get(reverse("admin:conversations_message_changelist")))
    assert "More than 6" in page and "answer 5" in page and "question 3" not in page
    second = text(root.get(reverse("admin:conversations_message_changelist") + "?p=2"))
    assert "question 3" in second and "question 5" not in second
