"""Vector indexes of large scopes: earned by size, built beside traffic, measured against exact search."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection

from conversations import indexes, nearest
from conversations.embedding import active_model
from conversations.messages import add_messages
from conversations.models import Embedding, EmbeddingModel, Instance, Partition
from conversations.querysets import Scope
from conversations.turns import Turn

pytestmark = pytest.mark.django_db(transaction=True)

LARGE, SMALL = Scope("tests", "large"), Scope("tests", "small")
MESSAGES = 300
GENERATOR = np.random.default_rng(7)


@pytest.fixture(autouse=True)
def low_threshold(db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(indexes, "EARNED", 100)
    yield
    Instance.objects.all().delete()
    indexes.drop_useless()


def fill(scope: Scope, messages: int) -> Instance:
    """Store messages whose vectors form clusters, like those of texts."""
    payload = {"role": "user", "content": "x"}
    said = (Turn.from_payload(json.dumps(payload), payload), datetime(2026, 1, 1, tzinfo=UTC))
    ids = add_messages(scope=scope, messages=[said] * messages, embed=False)
    model = active_model()
    centres = GENERATOR.normal(size=(20, model.dimensions))
    vectors = centres[GENERATOR.integers(20, size=messages)] + GENERATOR.normal(size=(messages, model.dimensions))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    instance = Instance.objects.of_scope(scope).get()
    Embedding.objects.bulk_create(
        Embedding(message_id=pk, instance=instance, model=model, start=0, end=1, vector=vector)
        for pk, vector in zip(ids, vectors, strict=True)
    )
    return instance


def another_connection() -> psycopg.Connection[tuple[object, ...]]:
    wanted = ("dbname", "user", "password", "host", "port")
    parameters = {key: value for key, value in connection.get_connection_params().items() if key in wanted}
    return psycopg.connect(**parameters)


def index(*arguments: str) -> str:
    out = io.StringIO()
    call_command("index", *arguments, stdout=out)
    return out.getvalue()


def test_only_large_scopes_earn_an_index() -> None:
    large = fill(LARGE, MESSAGES)
    fill(SMALL, 20)
    model = active_model()
    assert [scope.instance_id for scope in indexes.without_index(model)] == [large.pk]
    listed = index("list")
    assert "large" in listed and "none" in listed and "small" not in listed
    assert index("create", "--all-earned") == "1 indexes created.\n"
    found = nearest.searchable(large.pk, model.name)
    assert found and (found.id, found.dimensions) == (model.pk, model.dimensions)
    assert indexes.without_index(model) == []
    assert "ready" in index("list")
    index("drop", *LARGE)
    assert nearest.searchable(large.pk, model.name) is None


def test_an_index_is_measured_against_exact_search() -> None:
    instance = fill(LARGE, MESSAGES)
    index("create", *LARGE)
    measured = indexes.measure(instance.pk, active_model(), queries=20)
    assert measured.queries == 20
    assert 0.9 <= measured.recall <= 1
    assert measured.index_ms > 0 and measured.exact_ms > 0
    assert "of 20" in index("measure", *LARGE, "--queries", "20")


def test_measuring_notices_what_an_index_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    instance = fill(LARGE, MESSAGES)
    index("create", *LARGE)
    # Make the search read far too little of a well-built graph, and make PostgreSQL use it although it could sort so
    # few rows.
    one_step = "SET LOCAL hnsw.ef_search = 1; SET LOCAL hnsw.iterative_scan = off; SET LOCAL enable_sort = off"
    monkeypatch.setattr(nearest.Model, "search_settings", one_step)
    assert indexes.measure(instance.pk, active_model(), queries=20).recall < 0.5


def test_the_worker_builds_earned_indexes() -> None:
    instance = fill(LARGE, MESSAGES)
    assert indexes.create_next()
    assert nearest.searchable(instance.pk, active_model().name)
    assert not indexes.create_next()


def test_a_half_built_index_is_rebuilt() -> None:
    instance, model = fill(LARGE, MESSAGES), active_model()
    with another_connection() as other, connection.cursor() as cursor:
        other.execute(
            "BEGIN; LOCK TABLE conversations_embedding IN ROW EXCLUSIVE MODE"
        )  # the index has to wait for this transaction
        cursor.execute("SET statement_timeout = '300ms'")
        with pytest.raises(OperationalError):
            indexes.create(instance.pk, model)
        cursor.execute("RESET statement_timeout")
    assert nearest.searchable(instance.pk, model.name) is None
    assert "unfinished" in index("list")
    assert indexes.create_next()
    assert nearest.searchable(instance.pk, model.name)


def test_only_one_process_builds_an_index() -> None:
    instance = fill(LARGE, MESSAGES)
    with another_connection() as other:
        other.execute("SELECT pg_advisory_lock(%s)", [indexes.ONE_AT_A_TIME])
        assert not indexes.create(instance.pk, active_model())
        with pytest.raises(CommandError, match="Another process"):
            index("create", *LARGE)


def test_indexes_of_deleted_scopes_are_dropped() -> None:
    instance, model = fill(LARGE, MESSAGES), active_model()
    indexes.create(instance.pk, model)
    assert index("drop", "--useless") == "0 indexes dropped.\n"
    Partition.objects.all().delete()
    assert index("drop", "--useless") == "1 indexes dropped.\n"


def test_dropping_a_model_drops_its_indexes() -> None:
    instance, model = fill(LARGE, MESSAGES), active_model()
    indexes.create(instance.pk, model)
    EmbeddingModel.objects.update(active=False)
    EmbeddingModel.objects.create(name="new", dimensions=3, spec="local", active=True)
    call_command("reembed", "--drop-old", stdout=io.StringIO())
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_class WHERE relname LIKE 'embedding_near_%%'")
        assert cursor.fetchone() == (0,)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("create",), "Name a scope"),
        (("measure", "tests"), "Name a scope"),
        (("drop", "tests", "nobody"), "There is no instance"),
        (("create", *SMALL), "20 messages is read whole"),
        (("measure", *LARGE), "has no index"),
    ],
)
def test_a_wrong_command_is_one_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    fill(SMALL, 20)
    fill(LARGE, 101)
    with pytest.raises(CommandError, match=sentence):
        index(*arguments)
