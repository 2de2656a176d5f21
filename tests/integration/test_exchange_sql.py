"""The short way of storing an exchange leaves the same rows as the long one, in one call to the database each."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from conversations import actions
from conversations.exchange_sql import QuestionVector, close_in_one, open_in_one
from conversations.models import EmbeddingModel, Exchange, Instance, Ledger, Message
from conversations.querysets import Scope
from conversations.turns import Turn
from tests.integration.test_capture import SCOPE, answer, ask, assistant, user
from tests.integration.test_capture_properties import ON_DATABASE
from tests.server import PATIENCE

Json = dict[str, Any]

# All columns but those that hold ids, the lexemes and the clock's time, which are compared in their own way.
OTHERWISE = {"id", "instance_id", "exchange_id", "parent_id", "lexemes", "embed_due"}
COLUMNS = [f.attname for f in Message._meta.concrete_fields if f.attname not in OTHERWISE]


def turn(message: Json) -> Turn:
    return Turn.from_payload(json.dumps(message), message)


def rows(scope: Scope, trace_ids: list[uuid.UUID]) -> list[Any]:
    """What is stored of a scope, with places in it instead of ids, and no times of the clock."""
    messages = list(Message.objects.in_scope(scope).select_related("exchange").order_by("id"))
    places: dict[int | None, int | None] = {message.pk: at for at, message in enumerate(messages)} | {None: None}
    traces = {trace_id: at for at, trace_id in enumerate(trace_ids)}
    instance = Instance.objects.of_scope(scope).get()
    told: list[Any] = [(instance.message_count, instance.exchange_count, instance.last_active)]
    for message in messages:
        values = [getattr(message, name) for name in COLUMNS]
        lexemes = str(message.lexemes).replace(f"'#{instance.pk}'", "'#'")
        owner = traces[message.exchange.trace_id] if message.exchange else None
        told.append((*map(_plain, values), places[message.parent_id], owner, lexemes, message.embed_due is None))
    for exchange in Exchange.objects.in_scope(scope).order_by("id"):
        fields = [f.attname for f in Exchange._meta.concrete_fields]
        row = {name: getattr(exchange, name) for name in fields} | {"id": None, "instance_id": None}
        row["trace_id"] = traces[exchange.trace_id]
        row["request_ids"] = [places[pk] for pk in exchange.request_ids]
        row["question_id"] = places[exchange.question_id]
        told.append(row)
    return told


def _plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, memoryview) else value


TEXTS = st.sampled_from(
    ["yes", "no", "Which harbour?", "Always answer in French.", "港はどこ?", " ", "Lund % 'quoted' \\ {brace}"]
)
MESSAGES = st.builds(
    lambda role, text: {"role": role, "content": text}, st.sampled_from(["user", "assistant", "tool"]), TEXTS
)
ENDED = st.sampled_from([*(Exchange.Ended.ANSWERED for _ in range(4)), "gone", "failed", None])
# What is dropped from the front and the back of the history, what is added, the answers, and how it ended.
STEPS = st.lists(
    st.tuples(
        st.one_of(st.just(0), st.integers(0, 8)),
        st.one_of(st.just(0), st.integers(0, 3)),
        st.lists(MESSAGES, max_size=2),
        st.lists(TEXTS, min_size=0, max_size=2),
        ENDED,
        st.booleans(),
    ),
    min_size=1,
    max_size=8,
)


def play(scope: Scope, steps: Any, begin: Any) -> list[uuid.UUID]:
    """Store the exchanges of these steps. Returns their trace ids."""
    history: list[Json] = []
    traces = []
    for number, (front, back, added, answers, ended, distinct) in enumerate(steps):
        # Most turns of real histories are unlike each other; some repeat.
        mark = f" {number}" if distinct else ""
        history = history[: len(history) - back] if back else history
        history = [*history, *({**m, "content": m["content"] + mark} for m in added), user(f"and then{mark}")]
        moment = begin + timedelta(minutes=number) - (timedelta(hours=3) if number == 5 else timedelta())
        asked = actions.Asked(
            trace_id=uuid.uuid4(),
            scope=scope,
            created=moment,
            model="gpt-4o",
            provider="openai",
            streamed=distinct,
            turns=tuple(turn(message) for message in history[front if front < len(history) else 0 :]),
            left_out=(1, 2),
            prompts=((0, '{"role": "system", "content": "be kind"}'),),
            parameters='{"model": "gpt-4o"}',
            rule="title" if distinct else "",
            ledger=actions.Ledger(bytes(16), ({"id": 1, "why": "%s"},), ("[]",), (1,), 7) if distinct else None,
        )
        traces.append(asked.trace_id)
        actions.open_exchange(asked=asked)
        if ended is None:
            continue
        replies = [assistant(text + mark) for text in answers]
        answered = actions.Answered(
            finished=moment + timedelta(seconds=3),
            ended=ended,
            status=200,
            turns=tuple(map(turn, replies)),
            finish_reason="stop",
            usage={"prompt_tokens": 3, "completion_tokens": "?"} if distinct else None,
            timings={"recall": 1.5},
        )
        actions.close_exchange(asked=asked, answered=answered)
        history += replies[:1]
    return traces


@pytest.fixture
def ways() -> Iterator[dict[str, int]]:
    """How often the short way was taken."""
    taken = {"opened": 0, "closed": 0}

    def open_counted(*given: Any) -> Any:
        result = open_in_one(*given)
        taken["opened"] += result is not None
        return result

    def close_counted(*given: Any) -> bool:
        result = close_in_one(*given)
        taken["closed"] += result
        return result

    with (
        patch("conversations.actions.open_in_one", open_counted),
        patch("conversations.actions.close_in_one", close_counted),
    ):
        yield taken


@pytest.mark.django_db
@ON_DATABASE
@given(steps=STEPS)
def test_both_ways_store_the_same_rows(steps: Any) -> None:
    name, begin = str(uuid.uuid4()), timezone.now()
    short, long = Scope("short way", name), Scope("long way", name)
    traces = play(short, steps, begin)
    with (
        patch("conversations.actions.open_in_one", lambda *_: None),
        patch("conversations.actions.close_in_one", lambda *_: False),
    ):
        others = play(long, steps, begin)
    assert rows(short, traces) == rows(long, others)


@pytest.mark.django_db
def test_ordinary_histories_take_the_short_way(ways: dict[str, int]) -> None:
    history: list[Json] = []
    for number in range(6):
        history.append(user(f"question {number}"))
        answer(ask(history), f"answer {number}")
        history.append(assistant(f"answer {number}"))
    assert (ways["opened"], ways["closed"]) == (6, 6)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("messages", [[user("one")], [user("one"), assistant("a"), user("two")]])
def test_the_first_exchange_of_a_scope_makes_it_in_a_second_call(messages: list[Json]) -> None:
    with CaptureQueriesContext(connection) as queries:
        asked = ask(messages)
        answer(asked, "b")
    assert len(queries) == 3, queries.captured_queries
    stored = list(Message.objects.order_by("id"))
    assert [message.content for message in stored] == [*(each["content"] for each in messages), "b"]
    assert [message.parent_id for message in stored] == [None, *(message.pk for message in stored[:-1])]
    assert [message.alone for message in stored[:-1]] == [len(messages) == 1] * len(messages)
    assert (instance := Instance.objects.of_scope(SCOPE).get()).message_count == len(messages) + 1
    assert instance.partition.remember == "people"


@pytest.mark.django_db(transaction=True)
def test_requests_that_begin_a_scope_at_once_are_all_stored() -> None:
    begin = threading.Barrier(4)

    def first(number: int) -> None:
        begin.wait(PATIENCE)
        answer(ask([user(f"question {number}")]), f"answer {number}")
        connection.close()

    threads = [threading.Thread(target=first, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert Instance.objects.of_scope(SCOPE).get().message_count == Message.objects.count() == 8
    assert Message.objects.filter(parent=None).count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_request_that_a_rule_holds_takes_one_call_to_open_and_one_to_close() -> None:
    answer(ask([user("one")]), "a")
    ways = []
    for scope in (SCOPE, Scope("held", "the long way")):
        asked = replace(asking([]), scope=scope, rule="title", memory="off")
        ended = actions.Answered(finished=timezone.now(), ended="answered", status=200, usage={"prompt_tokens": 3})
        with CaptureQueriesContext(connection) as queries, ExitStack() as patched:
            if scope != SCOPE:
                patched.enter_context(patch("conversations.actions.open_in_one", lambda *_: None))
                patched.enter_context(patch("conversations.actions.close_in_one", lambda *_: False))
            actions.open_exchange(asked=asked)
            actions.close_exchange(asked=asked, answered=ended)
        ways.append(len(queries))
        stored = Exchange.objects.get(trace_id=asked.trace_id)
        told = (stored.ended, stored.rule, stored.request_ids, stored.question_id, stored.input_tokens, stored.created)
        assert told == ("answered", "title", [], None, 3, asked.created)
        assert stored.instance.exchange_count == 1 + (scope == SCOPE)
        assert stored.instance.last_active == ended.finished
    assert ways[0] == 2 < ways[1]
    assert Message.objects.count() == 2


@pytest.mark.django_db(transaction=True)
def test_opening_and_closing_are_one_call_to_the_database_each() -> None:
    answer(ask([user("one")]), "a")
    for history in ([user("one"), assistant("a"), user("two")], [user("alone")]):
        with CaptureQueriesContext(connection) as queries:
            asked = ask(history)
            answer(asked, "b")
        assert len(queries) == 2, queries.captured_queries
    assert Message.objects.count() == 6
    assert not Ledger.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_an_exchange_that_waits_for_another_sees_what_that_one_stored() -> None:
    begun = [user("one"), assistant("a")]
    answer(ask(begun[:1]), "a")

    def second() -> None:
        ask([*begun, user("second")])
        connection.close()

    waiting = threading.Thread(target=second)
    with transaction.atomic():
        ask([*begun, user("first")])
        waiting.start()
        deadline = time.monotonic() + PATIENCE
        while not is_anyone_blocked():
            assert time.monotonic() < deadline
            time.sleep(0.01)
    waiting.join(PATIENCE)
    assert list(Message.objects.filter(abandoned=True).values_list("content", flat=True)) == ["first"]
    assert Message.objects.get(content="second").parent == Message.objects.get(content="a")


def is_anyone_blocked() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
        (blocked,) = cursor.fetchone() or (False,)
        return bool(blocked)


@pytest.mark.django_db(transaction=True)
def test_the_vector_of_a_question_is_stored_with_it_if_its_model_is_in_use() -> None:
    answer(ask([user("one")]), "a")
    model = EmbeddingModel.objects.create(name="in use", dimensions=3, active=True)
    EmbeddingModel.objects.create(name="left", dimensions=3)
    history = [user("one"), assistant("a")]
    for text, named, stored in ((" spaced ", "in use", True), ("two", "left", False), ("three", "in use", True)):
        vector = QuestionVector(text, 0, len(text.strip()), named, "[1,0,0]")
        asked = asking([*history, user(text)])
        with CaptureQueriesContext(connection) as queries:
            opened = actions.open_exchange(asked=asked, vector=vector)
        assert len(queries) == 1
        assert opened.embedded is stored
        question = Message.objects.get(pk=opened.question_id or 0)
        assert (question.embed_due is None) is stored
        pieces = [(each.start, each.end, each.instance_id, each.model) for each in question.embeddings.all()]
        assert pieces == ([(0, len(text.strip()), question.instance_id, model)] if stored else [])
        answer(asked, f"answer to {text}")
        history += [user(text), assistant(f"answer to {text}")]
    other = QuestionVector("another text", 0, 12, "in use", "[1,0,0]")
    opened = actions.open_exchange(asked=asking([*history, user("four")]), vector=other)
    assert not opened.embedded
    assert Message.objects.get(pk=opened.question_id or 0).embed_due


def asking(messages: list[Json]) -> actions.Asked:
    """A request in the scope of ask(), not yet stored."""
    return actions.Asked(
        trace_id=uuid.uuid4(),
        scope=SCOPE,
        created=timezone.now(),
        model="gpt-4",
        provider="openai",
        streamed=False,
        turns=tuple(map(turn, messages)),
    )
