"""Forgotten messages are gone everywhere, exactly as the dry run counted. Real PostgreSQL."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from django.db import connection
from django.utils import timezone

from conversations import actions, forgetting
from conversations.backlog import save_vectors
from conversations.embedders.pieces import Piece
from conversations.forgetting import Counts
from conversations.models import AuditEntry, Embedding, EmbeddingModel, Exchange, Instance, Ledger, Message, Partition
from conversations.querysets import Scope
from conversations.selection import Selection
from conversations.turns import Turn

pytestmark = pytest.mark.django_db

SCOPE = Scope("tests", "forgetting")
MARKER = "zyxwvq"  # a word with a stem of its own


@pytest.fixture(autouse=True, params=["few, by list", "many, by join"])
def how_they_are_found(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two ways to find references to a forgotten message give the same result."""
    if request.param.startswith("many"):
        monkeypatch.setattr(forgetting, "FEW", -1)


def said(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": text}


def exchange(
    messages: Sequence[dict[str, Any]],
    answer: str,
    *,
    scope: Scope = SCOPE,
    at: datetime | None = None,
    prompt: str = "",
    error: str = "",
    shows: Sequence[int] = (),
    considers: Sequence[int] = (),
) -> Exchange:
    """Store an exchange as the proxy does; `shows` are messages quoted in the injected text."""
    at = at or timezone.now()
    texts = list(Message.objects.filter(pk__in=shows).values_list("content", flat=True))
    asked = actions.Asked(
        trace_id=uuid.uuid4(),
        scope=scope,
        created=at,
        model="gpt-4",
        provider="openai",
        streamed=False,
        turns=tuple(Turn.from_payload(json.dumps(m), m) for m in messages),
        prompts=((0, json.dumps(said("system", prompt))),) if prompt else (),
        parameters=json.dumps({"model": "gpt-4", "messages": [], "user": prompt}),
        ledger=actions.Ledger(
            key=b"k" * 16,
            candidates=tuple({"id": pk, "kept": pk in shows} for pk in (*shows, *considers)),
            injected=tuple(json.dumps(said("system", text)) for text in texts),
            message_ids=tuple(shows),
            tokens=7,
        ),
    )
    actions.open_exchange(asked=asked)
    answered = actions.Answered(
        finished=at + timedelta(seconds=1),
        ended=Exchange.Ended.ANSWERED,
        status=200,
        error=error,
        turns=(Turn.from_payload(json.dumps(said("assistant", answer)), said("assistant", answer)),),
    )
    actions.close_exchange(asked=asked, answered=answered)
    return Exchange.objects.get(trace_id=asked.trace_id)


def embed(message: Message) -> None:
    model, _ = EmbeddingModel.objects.get_or_create(name="tests", defaults={"dimensions": 3})
    save_vectors(
        message_id=message.pk,
        instance_id=message.instance_id,
        model=model,
        pieces=[Piece(0, 1), Piece(1, 2)],
        vectors=np.array([[1, 0, 0], [0, 1, 0]], np.float32),
    )


def message(text: str) -> Message:
    return Message.objects.get(content=text)


def kept(scope: Scope = SCOPE) -> list[str]:
    return list(Message.objects.in_scope(scope).order_by("id").values_list("content", flat=True))


def rows() -> dict[str, int]:
    """The number of rows of each kind in Counts."""
    return {
        "messages": Message.objects.count(),
        "embeddings": Embedding.objects.count(),
        "exchanges": Exchange.objects.count(),
        "instances": Instance.objects.count(),
        "partitions": Partition.objects.count(),
    }


def forget(selection: Selection) -> Counts:
    """Forget, and check that the dry run counted the same."""
    expected, before = forgetting.count(selection), rows()
    assert rows() == before, "the dry run removed something"
    went = forgetting.forget(selection, by="tests")
    after = rows()
    assert went == expected
    assert {key: before[key] - after[key] for key in before} == {key: asdict(went)[key] for key in before}
    for instance in Instance.objects.all():
        assert instance.message_count == instance.messages.count()
        assert instance.exchange_count == instance.exchanges.count()
    connection.check_constraints()
    return went


def holding(marker: str) -> list[str]:
    """The columns of the whole database that contain the marker, including the planner's statistics."""
    found = []
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT table_name, column_name FROM information_schema.columns
               WHERE table_schema = 'public' AND data_type NOT IN ('integer', 'bigint', 'boolean')"""
        )
        for table, column in cursor.fetchall():
            text = f"convert_from(\"{column}\", 'LATIN1')" if column in ("key", "digest") else f'"{column}"::text'
            cursor.execute(f'SELECT count(*) FROM "{table}" WHERE {text} ILIKE %s', [f"%{marker}%"])
            if (cursor.fetchone() or (0,))[0]:
                found.append(f"{table}.{column}")
        cursor.execute(
            """SELECT tablename || '.' || attname FROM pg_stats WHERE schemaname = 'public' AND concat(
               most_common_vals::text, histogram_bounds::text, most_common_elems::text) ILIKE %s""",
            [f"%{marker}%"],
        )
        found += [f"statistics of {row[0]}" for row in cursor.fetchall()]
    return found


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "selection",
    [Selection(partition="tests", search=MARKER), Selection(partition="tests", whole=True)],
    ids=["by search", "whole partition"],
)
def test_forgotten_text_is_gone_from_every_column_of_every_table(selection: Selection) -> None:
    first = exchange([said("user", f"my secret is {MARKER}")], f"noted, {MARKER}", prompt=f"you serve {MARKER}")
    ids = list(first.messages.values_list("pk", flat=True))
    for stored in first.messages.all():
        embed(stored)
    history = [said("user", f"my secret is {MARKER}"), said("assistant", f"noted, {MARKER}"), said("user", "thanks")]
    exchange(history, "welcome", prompt=f"once more {MARKER}", error=f"quoted {MARKER}")
    exchange([said("user", "what do you know?")], "nothing", shows=ids[:1], considers=ids[1:])
    exchange([said("user", "elsewhere")], "fine", scope=Scope("other", "scope"))
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    before = holding(MARKER)
    assert {"conversations_message.payload", "conversations_message.lexemes"} <= set(before)
    assert "conversations_exchange.prompts" in before
    assert "conversations_ledger.injected" in before
    assert "statistics of conversations_message.lexemes" in before
    forget(selection)
    assert holding(MARKER) == []
    assert kept(Scope("other", "scope")) == ["elsewhere", "fine"]


def test_counts_match_the_deleted_rows_for_every_criterion() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for day in range(6):
        for scope in (SCOPE, Scope("tests", "other"), Scope("third", "forgetting")):
            text = f"{'long ' * 50 * day} question {day} of {scope.partition} {scope.instance}"
            stored = exchange([said("user", text)], f"answer {day}", scope=scope, at=start + timedelta(days=day))
            embed(stored.messages.get(role="user"))
    assert forget(Selection(role="assistant", partition="third")).messages == 6
    assert forget(Selection(larger_than=1000)).messages == 6  # the long questions of days 4 and 5, in three scopes
    went = forget(Selection(before=start + timedelta(days=1), partition="tests"))
    assert (went.messages, went.embeddings, went.exchanges, went.ledgers) == (4, 4, 2, 2)
    assert went.bytes > 0
    assert forget(Selection(search='"question 2"', instance="other", partition="tests")).messages == 1
    only = Message.objects.in_scope(SCOPE).filter(role="user").first()
    assert only
    assert forget(Selection(ids=(only.pk,))).messages == 1
    assert forget(Selection(partition="tests", instance="other", whole=True)).instances == 1
    assert forget(Selection(partition="tests", whole=True)).partitions == 1
    assert forget(Selection(since=start)).messages == 4
    assert Message.objects.count() == Exchange.objects.count() == Ledger.objects.count() == 0
    assert Partition.objects.get().name == "third"  # its messages were selected, not the exchange


def test_an_exchange_with_a_remaining_message_stays_without_the_texts_of_its_request() -> None:
    stored = exchange([said("user", "one")], "two", prompt="a prompt", error="an error")
    went = forget(Selection(ids=(message("one").pk,)))
    assert (went.messages, went.exchanges, went.cleared) == (1, 0, 1)
    stored.refresh_from_db()
    assert (stored.prompts, stored.parameters, stored.error, stored.question) == ([], "", "", None)
    went = forget(Selection(ids=(message("two").pk,)))
    assert (went.exchanges, went.ledgers) == (1, 1)


def test_an_exchange_that_only_repeated_a_question_is_deleted_with_it() -> None:
    turns = (Turn.from_payload(json.dumps(said("user", "one")), said("user", "one")),)
    for _ in range(2):
        asked = actions.Asked(uuid.uuid4(), SCOPE, timezone.now(), "gpt-4", "openai", False, turns)
        actions.open_exchange(asked=asked)
        failed = actions.Answered(finished=timezone.now(), ended=Exchange.Ended.FAILED, status=500)
        actions.close_exchange(asked=asked, answered=failed)
    assert (Message.objects.count(), Exchange.objects.count()) == (1, 2)
    assert forget(Selection(role="user")).exchanges == 2


def test_exchanges_without_a_message_are_selected_by_age_and_scope_only() -> None:
    prompt = (0, json.dumps(said("system", MARKER)))
    asked = actions.Asked(uuid.uuid4(), SCOPE, timezone.now(), "gpt-4", "openai", False, prompts=(prompt,))
    actions.open_exchange(asked=asked)
    assert forget(Selection(partition="tests", role="user")) == Counts()
    assert forget(Selection(partition="tests", before=timezone.now())).exchanges == 1


def test_a_ledger_loses_the_candidate_and_any_injected_text_that_quotes_it() -> None:
    exchange([said("user", "one")], "two")
    shown, considered = message("one"), message("two")
    later = exchange([said("user", "three")], "four", shows=[shown.pk], considers=[considered.pk])
    assert forget(Selection(ids=(considered.pk,))).ledgers == 1
    ledger = Ledger.objects.get(exchange=later)
    assert [c["id"] for c in ledger.candidates] == ledger.message_ids == [shown.pk]
    assert ledger.considered == []
    assert len(ledger.injected) == 1
    forget(Selection(ids=(shown.pk,)))
    ledger.refresh_from_db()
    assert (ledger.candidates, ledger.injected, ledger.message_ids, ledger.tokens) == ([], [], [], 0)
    assert ledger.considered == []


def test_an_entry_of_a_message_that_was_shown_beside_a_forgotten_one_is_found_later() -> None:
    exchange([said("user", "one")], "two")
    ids = [message("one").pk, message("two").pk]
    later = exchange([said("user", "three")], "four", shows=ids)
    forget(Selection(ids=(ids[0],)))
    ledger = Ledger.objects.get(exchange=later)
    assert (ledger.message_ids, [c["id"] for c in ledger.candidates]) == ([], ids[1:])
    forget(Selection(ids=(ids[1],)))
    ledger.refresh_from_db()
    assert (ledger.candidates, ledger.considered) == ([], [])


@pytest.mark.parametrize("earlier", ["single_candidates", "earlier_candidates"])
def test_entries_that_earlier_versions_wrote_are_removed_too(earlier: str) -> None:
    exchange([said("user", "one")], "two")
    ids = [message("one").pk, message("two").pk]
    later = exchange([said("user", "three")], "four", shows=ids)
    entries = [{"id": pk, "kept": True} for pk in ids]
    Ledger.objects.filter(exchange=later).update(candidates=None, considered=ids, **{earlier: entries})
    for pk in ids:
        left = Ledger.objects.get(exchange=later)
        assert left.entries == entries[-len(left.considered) :]
        forget(Selection(ids=(pk,)))
    left = Ledger.objects.get(exchange=later)
    assert (left.entries, left.considered, left.message_ids) == ([], [], [])


def test_text_that_a_tool_loop_quoted_again_is_deleted_too() -> None:
    exchange([said("user", "one")], "two")
    quoted = message("one")
    later = exchange([said("user", "three")], "four", shows=[quoted.pk])
    Ledger.objects.filter(exchange=later).update(candidates=[], considered=[])
    assert forget(Selection(ids=(quoted.pk,))).ledgers == 1
    assert Ledger.objects.get(exchange=later).injected == []


def test_ledgers_from_before_the_candidates_column_are_migrated() -> None:
    migration = import_module("conversations.migrations.0006_what_a_ledger_considered")
    exchange([said("user", "one")], "two")
    ids = list(Message.objects.order_by("pk").values_list("pk", flat=True))
    later = exchange([said("user", "three")], "four", shows=ids[:1], considers=ids[1:])
    old = [{"id": pk, "kept": pk == ids[0]} for pk in ids]  # as they were then
    Ledger.objects.filter(exchange=later).update(considered=[], candidates=[], earlier_candidates=old)
    with connection.schema_editor() as editor:
        migration.fill(None, editor)
    assert Ledger.objects.get(exchange=later).considered == ids


def test_a_child_of_a_forgotten_turn_gets_its_parent() -> None:
    exchange([said("user", "one")], "two")
    exchange([said("user", "one"), said("assistant", "two"), said("user", "three")], "four")
    forget(Selection(ids=(message("two").pk, message("three").pk)))
    assert message("four").parent == message("one")
    # A client that removed the same turns from its history aligns with the rest.
    exchange([said("user", "one"), said("assistant", "four"), said("user", "five")], "six")
    assert kept() == ["one", "four", "five", "six"]
    forget(Selection(ids=(message("one").pk,)))
    assert message("four").parent is None


def test_an_answer_whose_question_was_forgotten_meanwhile_is_stored_alone() -> None:
    exchange([said("user", "one")], "two")
    turns = tuple(
        Turn.from_payload(json.dumps(m), m) for m in (said("user", "one"), said("assistant", "two"), said("user", "x"))
    )
    asked = actions.Asked(uuid.uuid4(), SCOPE, timezone.now(), "gpt-4", "openai", False, turns)
    actions.open_exchange(asked=asked)
    exchange([said("user", "unrelated")], "words")
    forget(Selection(ids=(message("two").pk, message("x").pk, message("one").pk)))
    answer = (Turn.from_payload(json.dumps(said("assistant", "y")), said("assistant", "y")),)
    answered = actions.Answered(finished=timezone.now(), ended=Exchange.Ended.ANSWERED, turns=answer)
    actions.close_exchange(asked=asked, answered=answered, opened=True)
    assert kept() == ["unrelated", "words"]


def test_the_last_activity_follows_the_remaining_messages() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    exchange([said("user", "one")], "two", at=start)
    exchange([said("user", "three")], "four", at=start + timedelta(days=5))
    forget(Selection(since=start + timedelta(days=1)))
    assert Instance.objects.get().last_active == start + timedelta(seconds=1)


def test_retention_selects_messages_past_their_partitions_days() -> None:
    exchange([said("user", "old")], "older", at=timezone.now() - timedelta(days=31))
    exchange([said("user", "new")], "newer", at=timezone.now() - timedelta(days=29))
    exchange([said("user", "kept")], "too", at=timezone.now() - timedelta(days=400), scope=Scope("forever", "x"))
    Partition.objects.filter(name="tests").update(keep_days=30)
    (selection,) = forgetting.expired()
    forget(selection)
    assert kept() == ["new", "newer"]
    assert kept(Scope("forever", "x")) == ["kept", "too"]


def test_the_audit_records_who_and_how_much_but_no_text() -> None:
    exchange([said("user", MARKER)], "two")
    went = forget(Selection(partition="tests", search=MARKER))
    entry = AuditEntry.objects.get()
    assert (entry.by, entry.counts["messages"], entry.counts["bytes"]) == ("tests", 1, went.bytes)
    assert entry.criteria == {"partition": "tests", "search": "words, not kept"}
    assert MARKER not in json.dumps([entry.criteria, entry.counts])


def test_an_empty_selection_leaves_no_audit() -> None:
    assert not forgetting.forget(Selection(ids=(12345,)), by="tests")
    assert not AuditEntry.objects.exists()


def test_spooled_exchanges_are_stored_before_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "bring_in", [lambda: exchange([said("user", "spooled")], "two")])
    assert forgetting.count(Selection(partition="tests", whole=True)).messages == 2


@pytest.mark.parametrize(
    "criteria",
    [
        {},
        {"partition": "p"},
        {"instance": "i", "whole": True},
        {"partition": "p", "ids": ()},
        {"partition": "p", "search": "  "},
        {"partition": "p", "role": ""},
        {"partition": "p", "whole": True, "role": "user"},
        {"whole": True},
        {"since": datetime(2026, 1, 2, tzinfo=UTC), "before": datetime(2026, 1, 1, tzinfo=UTC)},
        {"before": datetime(2026, 1, 1)},
        {"larger_than": -1},
        {"larger_than": 2**31},
        {"search": "x" * 1001},
    ],
)
def test_a_vague_or_contradictory_selection_is_refused(criteria: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"[A-Z].*\.$"):
        Selection(**criteria)


def test_search_words_are_never_read_as_query_syntax() -> None:
    exchange([said("user", "one")], "two")
    for words in ("'); DROP TABLE", "& | ! ( :*", "\x00", "the of and", "%s %(x)s {}"):
        assert forgetting.count(Selection(search=words)) == Counts()


def test_every_table_that_refers_to_a_message_or_an_exchange_is_handled() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT conrelid::regclass::text FROM pg_constraint
               WHERE contype = 'f' AND confrelid IN ('conversations_message'::regclass,
                                                     'conversations_exchange'::regclass)"""
        )
        tables = {row[0] for row in cursor.fetchall()}
    known = {"conversations_message", "conversations_exchange", "conversations_ledger", "conversations_embedding"}
    assert tables == known, "a new table refers to forgotten rows: handle it in forgetting.REMOVE"
