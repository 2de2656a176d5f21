"""What a process keeps of a scope: recall with it finds what recall without it finds, whatever happens to the scope."""

from __future__ import annotations

import json
import random
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pytest_django.fixtures import Settings

from conversations.forgetting import forget
from conversations.messages import add_messages
from conversations.models import Embedding, EmbeddingModel, Instance, Message
from conversations.querysets import Scope
from conversations.recall import cache as caching
from conversations.recall import news, retrieval
from conversations.recall.cache import Key, cache
from conversations.recall.search import Candidate, prepare_query, search
from conversations.selection import Selection
from conversations.turns import Turn

pytestmark = pytest.mark.django_db(transaction=True)

MODEL, DIMENSIONS = "eight-dimensions", 8
START = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
WORDS = ["violin", "parcel", "key", "lake", "soup", "bread", "Ann's", "garden", "bees", "yesterday", "鑰匙", "C:\\temp"]


@pytest.fixture(autouse=True)
def emptied(db: None, settings: Settings) -> Iterator[None]:
    settings.RESERVOIR_CACHE_MB = 64
    EmbeddingModel.objects.get_or_create(name=MODEL, defaults={"dimensions": DIMENSIONS})
    cache.clear()
    yield
    cache.clear()


@pytest.fixture
def scope() -> Scope:
    return Scope("cache", uuid.uuid4().hex)


def remember(scope: Scope, *texts: str, start: datetime = START, name: str = "") -> list[int]:
    turns = []
    for number, text in enumerate(texts):
        payload = {"role": ("user", "assistant")[number % 2], "content": text} | ({"name": name} if name else {})
        turns.append((Turn.from_payload(json.dumps(payload), payload), start + timedelta(minutes=number)))
    return add_messages(scope=scope, messages=turns)


def embed(ids: list[int], seed: int = 0, pieces: int = 2) -> None:
    model, _ = EmbeddingModel.objects.get_or_create(name=MODEL, defaults={"dimensions": DIMENSIONS})
    instances = dict(Message.objects.filter(pk__in=ids).values_list("pk", "instance_id"))
    Embedding.objects.bulk_create(
        Embedding(message_id=pk, instance_id=instances[pk], model=model, start=at, end=at + 1, vector=vector(pk + at))
        for pk in ids
        for at in range(1 + (pk + seed) % pieces)
    )


def vector(seed: int) -> list[float]:
    drawn = np.random.default_rng(seed).normal(size=DIMENSIONS)
    return [float(number) for number in drawn / np.linalg.norm(drawn)]


def key_of(scope: Scope) -> Key:
    return Key(Instance.objects.of_scope(scope).get().pk, MODEL)


def keep(scope: Scope) -> None:
    news.load(key_of(scope))


def is_kept(scope: Scope) -> bool:
    return key_of(scope) in cache._kept


def found(scope: Scope, query: str, seed: int = 1) -> list[Candidate]:
    return search(query=prepare_query(scope=scope, text=query), vector=vector(seed), model=MODEL)


def without_cache(scope: Scope, query: str, seed: int = 1) -> list[Candidate]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(caching, "limit", lambda: 0)
        patch.setattr(news, "limit", lambda: 0)
        return found(scope, query, seed)


def texts(candidates: list[Candidate]) -> list[str]:
    return [candidate.content for candidate in candidates]


def assert_same(scope: Scope, query: str, seed: int = 1) -> None:
    """Recall finds the same with and without a cache; both compute cosines in four bytes, in another order."""
    with_cache, without = ({each.id: each for each in find(scope, query, seed)} for find in (found, without_cache))
    assert with_cache.keys() == without.keys()
    for pk, one in with_cache.items():
        other = without[pk]
        assert one.score == pytest.approx(other.score, rel=1e-4, abs=1e-5)
        for name, part in one.parts.items():
            assert part.score == pytest.approx(other.parts[name].score, rel=1e-4, abs=1e-5), name
        assert (one.content, one.start, one.end) == (other.content, other.start, other.end)
        assert one.relevant == other.relevant


# --- following a scope --------------------------------------------------------------------------------------


def test_a_scope_that_is_asked_often_is_kept_and_read_with_one_statement(scope: Scope) -> None:
    embed(remember(scope, *[f"The {word} is here, number {n}" for n, word in enumerate(WORDS * 5)]))
    for _ in range(caching.OFTEN):
        assert cache.next_wanted() is None
        found(scope, "Where is the violin?")
    wanted = cache.next_wanted()
    assert wanted == key_of(scope)
    news.load(wanted)
    assert_same(scope, "Where is the violin?")
    with CaptureQueriesContext(connection) as sent:
        found(scope, "Where is the key?")
    assert len(sent) == 3
    assert "message_count, coalesce" in sent[1]["sql"]


def test_new_messages_are_found_at_once_and_nothing_is_loaded_again(scope: Scope) -> None:
    embed(remember(scope, "I keep bees", "How nice"))
    keep(scope)
    for number in range(20):
        remember(scope, f"The violin {number} is red", "Lovely", start=START + timedelta(hours=1 + number))
        assert f"The violin {number} is red" in texts(found(scope, f"Which violin is {number}?"))
        assert_same(scope, f"Which violin is {number}?")
    assert is_kept(scope)
    assert cache.next_wanted() is None


def test_a_vector_that_comes_later_is_found(scope: Scope) -> None:
    first, second = remember(scope, "Mein Hund heißt Rex", "Ein schöner Name")
    keep(scope)
    embed([first], pieces=1)
    assert texts(found(scope, "x", seed=first))[0] == "Mein Hund heißt Rex"
    embed([second], pieces=1)
    assert texts(found(scope, "x", seed=second))[0] == "Ein schöner Name"
    assert is_kept(scope)


def test_a_forgotten_message_is_neither_shown_nor_counted(scope: Scope) -> None:
    ids = remember(scope, "The key is in the shed", "Good", "The key is under the pot", "Good", "Bread", "Soup")
    embed(ids)
    keep(scope)
    forget(Selection(partition=scope.partition, ids=(ids[0],)), by="test")
    assert "The key is in the shed" not in texts(found(scope, "Where is the key?"))
    assert not is_kept(scope)
    assert cache.next_wanted() == key_of(scope)
    assert_same(scope, "Where is the key?")


def test_an_abandoned_message_is_not_found_and_a_revived_one_is(scope: Scope) -> None:
    ids = remember(scope, "The key is in the shed", "Good", "Bread", "Soup")
    embed(ids)
    keep(scope)
    Message.objects.filter(pk=ids[0]).update(abandoned=True)
    assert "The key is in the shed" not in texts(found(scope, "Where is the key?"))
    keep(scope)
    Message.objects.filter(pk=ids[0]).update(abandoned=False)
    assert "The key is in the shed" in texts(found(scope, "Where is the key?"))


def test_a_message_of_an_earlier_time_is_found(scope: Scope) -> None:
    embed(remember(scope, "Bread", "Soup"))
    keep(scope)
    remember(scope, "The key is in the shed", start=START - timedelta(days=3))
    assert "The key is in the shed" in texts(found(scope, "Where is the key?"))
    keep(scope)
    assert_same(scope, "Where is the key?")


def test_after_a_failover_that_lost_the_latest_messages_nothing_of_them_is_kept(scope: Scope) -> None:
    ids = remember(scope, "Bread", "Soup", "Lost", "Lost too")
    embed(ids)
    keep(scope)
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE conversations_message DISABLE TRIGGER USER")
        cursor.execute("DELETE FROM conversations_embedding WHERE message_id = ANY(%s)", [ids[2:]])
        cursor.execute("DELETE FROM conversations_message WHERE id = ANY(%s)", [ids[2:]])
        cursor.execute("ALTER TABLE conversations_message ENABLE TRIGGER USER")
        cursor.execute("UPDATE conversations_instance SET message_count = 2 WHERE id = %s", [key_of(scope).instance_id])
    remember(scope, "The key is in the shed", "Good", start=START + timedelta(hours=1))
    assert "The key is in the shed" in texts(found(scope, "Where is the key?"))


def test_without_the_triggers_nothing_is_kept(scope: Scope) -> None:
    remember(scope, "Bread", "Soup")
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE conversations_message DISABLE TRIGGER messages_removed")
        try:
            keep(scope)
        finally:
            cursor.execute("ALTER TABLE conversations_message ENABLE TRIGGER messages_removed")
    assert not is_kept(scope)


def test_the_backlog_changes_no_revision(scope: Scope) -> None:
    ids = remember(scope, "Bread", "Soup")
    before = Instance.objects.of_scope(scope).get().revision
    Message.objects.filter(pk__in=ids).update(embed_due=None)
    remember(scope, "Bees", start=START + timedelta(hours=1))
    assert Instance.objects.of_scope(scope).get().revision == before
    Message.objects.filter(pk__in=ids).update(wish=True)
    assert Instance.objects.of_scope(scope).get().revision > before


def test_what_is_kept_stays_within_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    scopes = [Scope("cache", uuid.uuid4().hex) for _ in range(4)]
    for scope in scopes:
        embed(remember(scope, *WORDS))
    keep(scopes[0])
    most = 5 * cache.size // 2
    monkeypatch.setattr(caching, "limit", lambda: most)
    for scope in scopes[1:]:
        keep(scope)
        assert 0 < cache.size <= most
    assert [is_kept(scope) for scope in scopes] == [False, False, True, True]
    found(scopes[2], "x")
    keep(scopes[0])
    assert [is_kept(scope) for scope in scopes] == [True, False, True, False], "the one asked last stays"
    monkeypatch.setattr(news, "limit", lambda: cache.size // 4)
    keep(scopes[1])
    assert not is_kept(scopes[1]), "too large"


def test_threads_that_ask_while_messages_arrive_find_all_of_them(scope: Scope) -> None:
    embed(remember(scope, "Bread", "Soup"))
    keep(scope)
    failures: list[str] = []

    def ask() -> None:
        try:
            for _ in range(15):
                there = Message.objects.in_scope(scope).filter(content__startswith="violin").count()
                seen = sum(text.startswith("violin") for text in texts(found(scope, "violin")))
                if seen < min(there, 50):
                    failures.append(f"{seen} of {there}")
        finally:
            connection.close()

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(20):
        remember(scope, f"violin {number}", start=START + timedelta(hours=1 + number))
    for thread in threads:
        thread.join()
    assert failures == []
    assert_same(scope, "violin 7")


def test_a_large_scope_that_is_kept_is_searched_in_the_process(scope: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    said = [f"Talk number {number}, nothing of interest" for number in range(300)]
    said[100], said[101], said[200] = (
        "Where did you put the spare key?",
        "Under the flower pot",
        "Always answer in French",
    )
    ids = remember(scope, *said)
    embed(ids, pieces=1)
    keep(scope)
    exact = texts(found(scope, "spare key", seed=ids[40]))
    monkeypatch.setattr(retrieval, "READ_WHOLE", 0)
    monkeypatch.setattr(retrieval, "CANDIDATES", 5)
    with CaptureQueriesContext(connection) as sent:
        near = found(scope, "spare key", seed=ids[40])
    assert len(sent) == 3
    assert {"Where did you put the spare key?", "Under the flower pot", said[40]} <= {*texts(near)}
    assert texts(near)[0] == exact[0]
    assert any(each.is_wish for each in near)


# --- the same results, whatever happens ---------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["say", "say", "say", "embed", "embed", "abandon", "revive", "forget", "late", "wish", "keep"]),
        st.integers(0, 10**6),
    ),
    min_size=4,
    max_size=25,
)


def happen(scope: Scope, step: str, seed: int, clock: int) -> None:
    draw = random.Random(seed)
    here = Message.objects.in_scope(scope)
    some = draw.sample(ids, min(3, len(ids))) if (ids := list(here.values_list("pk", flat=True))) else []
    text = " ".join(draw.choices(WORDS, k=draw.randint(1, 30))) + draw.choice(["?", "."])
    match step:
        case "say":
            remember(scope, text, "Good", start=START + timedelta(hours=clock), name=draw.choice(["", "", "Ann"]))
        case "late":
            remember(scope, text, start=START - timedelta(hours=clock))
        case "embed":
            embed([pk for pk in ids if not Embedding.objects.filter(message_id=pk).exists()][: draw.randint(1, 9)])
        case "abandon" | "revive":
            here.filter(pk__in=some).update(abandoned=step == "abandon")
        case "wish":
            here.filter(pk__in=some).update(wish=draw.random() < 0.5)
        case "forget" if some:
            forget(Selection(partition=scope.partition, ids=tuple(some)), by="test")
        case "keep":
            keep(scope)


@hypothesis_settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_recall_finds_the_same_with_and_without_a_cache(steps: list[tuple[str, int]]) -> None:
    scope = Scope("cache", uuid.uuid4().hex)
    remember(scope, "I keep bees", "How nice")
    keep(scope)
    for clock, (step, seed) in enumerate(steps, 1):
        happen(scope, step, seed, clock)
        assert_same(scope, f"Where is the {WORDS[seed % len(WORDS)]}, Ann?", seed)
