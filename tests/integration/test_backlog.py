"""The backlog's few statements: messages of several scopes are leased, embedded and written together."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from conversations import backlog
from conversations.backlog import save_computed_vectors, work_off
from conversations.backlog_sql import Embedded, lease, write
from conversations.embedders.base import Embedder
from conversations.embedding import active_embedder
from conversations.messages import add_messages
from conversations.models import Embedding, Message
from conversations.querysets import Scope
from conversations.turns import Turn

pytestmark = pytest.mark.django_db(transaction=True)

LONG = "The harbour of Lund is quiet at night. " * 60


@pytest.fixture
def embedder() -> Iterator[Embedder]:
    embedder = active_embedder()
    yield embedder
    embedder.close()


def say(scope: str, *texts: str) -> list[int]:
    payloads = [{"role": "user", "content": text} for text in texts]
    turns = [Turn.from_payload(json.dumps(payload), payload) for payload in payloads]
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return add_messages(scope=Scope("tests", scope), messages=[(turn, at) for turn in turns])


def of(message_id: int) -> set[tuple[int, int, int]]:
    found = Embedding.objects.filter(message=message_id)
    return {(each.instance_id, each.start, each.end) for each in found}


def test_a_batch_takes_two_calls_and_gives_each_message_its_vectors_in_its_scope(embedder: Embedder) -> None:
    (ship,), (night, long) = say("a", "The ship sails."), say("b", "Good night.", LONG)
    with CaptureQueriesContext(connection) as calls:
        assert work_off(embedder) == 3
    assert len(calls) == 2, [call["sql"][:80] for call in calls]
    assert all("instance_id" in call["sql"] for call in calls)
    scopes = dict(Message.objects.values_list("id", "instance_id"))
    assert of(ship) == {(scopes[ship], 0, 15)} and of(night) == {(scopes[night], 0, 11)}
    assert len(of(long)) > 3 and {instance for instance, _, _ in of(long)} == {scopes[long]}
    near = Message.objects.nearest(embedder.embed(["The ship sails."])[0].tolist(), embedder.name).first()
    assert near and near.pk == ship
    assert not Message.objects.backlog().exists()
    assert work_off(embedder) == 0


@pytest.mark.parametrize("take_off", [True, False])
def test_leasing_and_writing_do_not_wait_for_the_disk(take_off: bool) -> None:
    (pk,) = say("a", "The ship sails.")

    def commits() -> str:
        with connection.cursor() as cursor:
            cursor.execute("SHOW synchronous_commit")
            return str(cursor.fetchone()[0])

    with transaction.atomic():
        usual = commits()
        leased = lease(timezone.now(), until=timedelta(minutes=5), most=9)
        after_lease = commits()
    with transaction.atomic():
        write("none", [Embedded(pk, leased[0].instance_id, [], [])], overtaken=None, take_off=take_off)
        after_write = commits()
    assert (usual, after_lease, after_write, commits()) == ("on", "off", "off", "on")


def test_what_one_worker_leases_no_other_takes_until_the_lease_ends() -> None:
    say("a", *"abc")
    now = timezone.now()
    first = lease(now, until=timedelta(minutes=5), most=2)
    second = lease(now, until=timedelta(minutes=5), most=2)
    assert sorted(each.content for each in (*first, *second)) == ["a", "b", "c"]
    assert not lease(now, until=timedelta(minutes=5), most=2)
    assert len(lease(now + timedelta(minutes=6), until=timedelta(minutes=5), most=9)) == 3


def test_a_message_that_is_forgotten_while_it_is_embedded_leaves_no_vector(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten, kept = say("a", "Forget this.", "Keep this.")

    def forget_first(model: str, embedded: Sequence[Embedded]) -> None:
        Message.objects.filter(pk=forgotten).delete()
        backlog.save(model, embedded)

    backlog.embed(embedder, lease(timezone.now(), until=timedelta(minutes=5), most=9), save=forget_first)
    assert set(Embedding.objects.values_list("message_id", flat=True)) == {kept}


def test_a_name_without_a_model_leaves_its_messages_on_the_backlog(embedder: Embedder) -> None:
    (pk,) = say("a", "Which model?")
    (message,) = lease(timezone.now(), until=timedelta(minutes=5), most=9)
    backlog.save("dropped since", [Embedded(pk, message.instance_id, [], [])])
    due = Message.objects.get(pk=pk).embed_due
    assert due and due < timezone.now() + timedelta(minutes=1)


def test_the_vector_that_a_question_recalled_with_is_stored_in_one_call(embedder: Embedder) -> None:
    (pk,) = say("a", "Where do ships rest?")
    vectors = embedder.embed(["Where do ships rest?"])
    instance = Message.objects.get(pk=pk).instance_id
    with CaptureQueriesContext(connection) as calls:
        save_computed_vectors(
            embedder, message_id=pk, instance_id=instance, text="Where do ships rest?", vectors=vectors
        )
    assert len(calls) == 1
    assert of(pk) == {(instance, 0, 20)} and not Message.objects.backlog().exists()
