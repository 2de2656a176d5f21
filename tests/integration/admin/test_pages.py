"""The admin over HTTP, on a real database: what its pages say."""

from __future__ import annotations

import json
import re
import shlex
from html import unescape
from pathlib import Path

import pytest
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from console import storage
from conversations.forgetting import forget
from conversations.models import Exchange, Instance, Ledger, Message
from conversations.querysets import Scope
from conversations.selection import Selection
from tests.integration.admin.data import answer_of, exchange, question_of, said
from tests.integration.admin.pages import BLOCK, HOME, WORK, change, every_page, text

pytestmark = pytest.mark.django_db


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


def test_an_exchange_shows_which_turns_did_not_fit_the_window(root: Client) -> None:
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


def test_the_copied_curl_repeats_the_request_without_memory_and_stores_nothing(root: Client) -> None:
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


@pytest.mark.parametrize(
    ("provider", "variable"),
    [("mistral", "MISTRAL_API_KEY"), ("groq", "GROQ_KEY"), ("keyless", ""), ("gone", ""), ("", "")],
)
def test_the_copied_curl_names_the_key_of_its_provider_or_none(
    root: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, provider: str, variable: str
) -> None:
    file = tmp_path / "providers.toml"
    file.write_text(
        '[providers.groq]\nbase_url = "https://groq.example/v1"\nkey_env = "GROQ_KEY"\n'
        '[providers.keyless]\nbase_url = "http://localhost:9/v1"\n'
    )
    monkeypatch.setenv("RESERVOIR_PROVIDERS", str(file))
    asked = exchange(HOME, "I keep bees.", "Lovely.")
    Exchange.objects.filter(pk=asked.pk).update(provider=provider)
    curl = unescape(text(root.get(change(asked))).split('<pre id="curl">')[1].split("</pre>")[0])
    assert re.findall(r"Authorization.*", curl) == ([f'Authorization: Bearer ${variable}" \\'] if variable else [])


def test_the_error_of_a_failure_is_escaped_once(root: Client) -> None:
    cache.clear()
    one = exchange(HOME, "I keep bees.", "")
    Exchange.objects.filter(pk=one.pk).update(
        created=timezone.now(), ended=Exchange.Ended.FAILED, error="The provider's <b>"
    )
    page = text(root.get(reverse("admin:index"), {"window": "month", "summed": "1"}))
    assert "The provider&#x27;s &lt;b&gt;" in page and "&amp;#x27;" not in page


def test_nothing_added_is_told_apart_from_nothing_found(root: Client) -> None:
    bees = exchange(HOME, "I keep bees.", "How lovely.")
    asked = exchange(HOME, "What do I keep?", "Who knows.", minutes=9, shown=(question_of(bees),))
    assert "Recall found nothing relevant in this scope" in text(root.get(change(bees)))
    Ledger.objects.filter(exchange=asked).update(message_ids=[], candidates=[{"id": question_of(bees), "kept": False}])
    assert "of each of the 1 message that" in text(root.get(change(asked)))


def test_a_table_without_statistics_shows_no_number_of_rows() -> None:
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE conversations_ledger")
    assert {table.name: table.rows for table in storage.tables()}["ledgers"] is None


def test_a_failed_exchange_shows_its_error(root: Client) -> None:
    failed = exchange(HOME, "Hello?", "", ended="failed", error="rate_limit: slow down")
    assert "rate_limit: slow down" in text(root.get(change(failed)))
    page = text(root.get(reverse("admin:conversations_exchange_changelist")))
    assert re.search(r'class="why-failed">200 <[^>]*>rate_limit: slow down<', page), page


def test_a_conversation_is_paged_by_time_and_jumps_to_dates_and_messages(
    root: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("console.conversation.dialogue.A_PAGE", 10)
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


HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)> [go](javascript:alert(3)) ![p](https://evil.example/p.png) "
    "</textarea></pre><svg/onload=alert(4)> \x1b[31mred \u202egnp.exe {{ 7|add:7 }} &lt;b&gt; [d](data:text/html,x)"
)


def test_hostile_text_is_shown_as_text_on_every_page(root: Client) -> None:
    scope = Scope('"><script>alert(5)</script>', "\u202e<img src=x onerror=alert(6)>")
    kept = exchange(scope, HOSTILE + " bees", HOSTILE)
    block = json.dumps({"role": "system", "content": "<memory>" + HOSTILE})
    one = exchange(scope, HOSTILE, HOSTILE, minutes=3, shown=(question_of(kept),), injected=(block,), error=HOSTILE)
    assert kept.instance_id == one.instance_id
    for url in [*every_page(one), reverse("admin:search") + "?q=red"]:
        response = root.get(url)
        # An input field holds the unchanged name.
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


def test_an_exchange_in_progress_has_a_page_without_timings(root: Client) -> None:
    one = exchange(HOME, "I keep bees.", "Lovely.")
    Exchange.objects.filter(pk=one.pk).update(timings={}, ended=Exchange.Ended.OPEN)
    assert "in progress" in text(root.get(change(one)))
    assert "in progress" in text(root.get(reverse("admin:conversations_exchange_changelist")))


def test_a_large_image_is_named_but_not_shown(root: Client) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 3_000_000}}
    one = exchange(HOME, [{"type": "text", "text": "What is this?"}, image], "A bee.")
    page = text(root.get(change(one)))
    assert len(page) < 100_000 and "What is this?" in page
    assert "1 message is too large to be shown here whole" in page and "Copy curl" not in page
    own = text(root.get(change(one.question)))
    assert len(own) < 100_000 and "(3,000,022 characters)" in own


def test_hidden_characters_are_escaped_in_the_curl(root: Client) -> None:
    question = "a\u202eb\x7fc\U000e0041d"
    one = exchange(HOME, question, "Yes.")
    raw = json.dumps({"role": "user", "content": question}, ensure_ascii=False)
    Message.objects.filter(pk=question_of(one)).update(payload=raw)
    curl = unescape(text(root.get(change(one))).split('<pre id="curl">')[1].split("</pre>")[0])
    assert r"a\u202eb\u007fc\udb40\udc41d" in curl
    sent = json.loads(shlex.split(curl)[-1])
    assert sent["messages"][1]["content"] == question


def test_a_search_inside_a_conversation_stays_in_it(root: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("console.search.words.MOST_QUESTIONS", 1)
    here = exchange(HOME, "My bees are well.", "Good.")
    exchange(WORK, "The bees are late.", "Oh.", minutes=1)
    exchanges = reverse("admin:conversations_exchange_changelist")
    for place in (f"instance={here.instance_id}", f"partition={here.instance.partition_id}"):
        assert "My bees are well." in text(root.get(f"{exchanges}?q=bees&{place}")), place


@pytest.mark.parametrize("model", ["exchange", "message"])
@pytest.mark.parametrize("place", ["instance", "partition"])
def test_a_deleted_conversation_lists_nothing(root: Client, model: str, place: str) -> None:
    exchange(HOME, "I keep bees.", "Lovely.")
    url = reverse(f"admin:conversations_{model}_changelist")
    page = text(root.get(f"{url}?{place}=999999"))
    assert "bees" not in page and "no longer there" in page
    assert "bees" in text(root.get(url))


def test_a_session_is_marked_as_continued_only_when_it_continues(root: Client) -> None:
    first = exchange(HOME, "One", "1")
    exchange(HOME, "Two", "2", minutes=24 * 60)
    url = change(first.instance)
    assert "continued" not in text(root.get(url, {"date": "2026-05-02"}))
    later = exchange(HOME, "Three", "3", minutes=24 * 60 + 5)
    assert "continued" in text(root.get(url, {"after": answer_of(later).pk - 2}))


def test_charts_have_a_text_alternative(root: Client) -> None:
    cache.clear()
    one = exchange(HOME, "I keep bees.", "Lovely.")
    Exchange.objects.filter(pk=one.pk).update(created=timezone.now())
    page = text(root.get(reverse("admin:index"), {"window": "month", "summed": "1"}))
    assert 'aria-label="Exchanges: answered 1, failed or cut 0"' in page


def test_an_exchange_whose_server_stopped_is_not_counted_as_a_providers_failure(root: Client) -> None:
    cache.clear()
    one = exchange(HOME, "I keep bees.", "")
    Exchange.objects.filter(pk=one.pk).update(created=timezone.now(), ended=Exchange.Ended.INTERRUPTED)
    page = text(root.get(reverse("admin:index"), {"window": "month", "summed": "1"}))
    assert "100.0% of exchanges" in page and "none failed" in page


def test_a_date_after_the_last_message_shows_the_end(root: Client) -> None:
    one = exchange(HOME, "One", "1")
    assert "One" in text(root.get(change(one.instance), {"date": "2030-01-01"}))


def test_numbers_from_a_memory_are_marked_too(root: Client) -> None:
    told = exchange(HOME, "My number is +49 170 5550123.", "Noted.")
    block = BLOCK.replace("I keep bees.", "My number is +49 170 5550123.")
    asked = exchange(
        HOME, "How is it?", "Call +49 170 5550123.", minutes=5, shown=(question_of(told),), injected=(block,)
    )
    assert "<mark>5550123</mark>" in text(root.get(change(asked)))


def test_remaining_memories_are_explained_after_one_was_forgotten(root: Client) -> None:
    bees, goats = exchange(HOME, "I keep bees.", "Good."), exchange(HOME, "I keep goats.", "Good.", minutes=1)
    shown = (question_of(bees), question_of(goats))
    asked = exchange(HOME, "What do I keep?", "Goats and bees.", minutes=5, shown=shown, injected=(BLOCK,))
    Exchange.objects.filter(pk=asked.pk).update(memories=2)
    forget(Selection(ids=(question_of(bees),)), by="tests")
    page = text(root.get(change(asked)))
    assert "something that it quoted has been forgotten" in page
    assert "<mark>goats</mark>" in page and "I keep bees" not in page
