"""A text that is sent again and again without history is a poll. Real PostgreSQL."""

from __future__ import annotations

import json
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from conversations import actions, policy
from conversations.models import Exchange, Message, Partition
from conversations.querysets import Scope
from conversations.repetition import is_repeated, set_aside
from conversations.turns import Turn
from proxy.providers import tokens
from proxy.spool.record import Entry, decode, encode
from proxy.spool.replaying import store_entry

pytestmark = pytest.mark.django_db

SCOPE = Scope("tests", "polls")
POLL = "Is the kiln still hot enough?"


@pytest.fixture(autouse=True)
def prepared(tmp_path: Path) -> None:
    policy.read_again()
    tokens.prepare(tmp_path / "tiktoken")


def turn(role: str, text: str) -> Turn:
    payload = {"role": role, "content": text}
    return Turn.from_payload(json.dumps(payload), payload)


def asked(*turns: Turn, scope: Scope = SCOPE, ago: timedelta = timedelta(), **fields: Any) -> actions.Asked:
    return actions.Asked(
        trace_id=uuid.uuid4(),
        scope=scope,
        created=timezone.now() - ago,
        model="gpt-4",
        provider="openai",
        streamed=False,
        turns=turns,
        **fields,
    )


def exchange(text: str, answer: str = "Yes.", **fields: Any) -> None:
    question = asked(turn("user", text), **fields)
    actions.open_exchange(asked=question)
    answered = actions.Answered(finished=question.created, ended="answered", turns=(turn("assistant", answer),))
    actions.close_exchange(asked=question, answered=answered)


def repeated(text: str, scope: Scope = SCOPE) -> bool:
    return is_repeated(scope=scope, digest=turn("user", text).digest, length=len(text))


def test_a_text_is_a_poll_after_five_copies_in_its_scope() -> None:
    for i in range(5):
        assert not repeated(POLL)
        exchange(POLL, f"{1000 - i} degrees")
        exchange(f"Something else {i}")
    assert repeated(POLL)
    assert not repeated(POLL, Scope("tests", "another"))
    assert not repeated("Is the kiln cold by now?")


def test_copies_of_days_ago_and_of_a_history_make_no_poll() -> None:
    for days in range(5):
        exchange(POLL, ago=timedelta(days=9 - days))
    assert not repeated(POLL)
    turns = [turn("user", POLL), turn("assistant", "Yes.")]
    actions.open_exchange(asked=asked(*(turns * 6), turn("user", "And now?"), scope=Scope("tests", "history")))
    assert not repeated(POLL, Scope("tests", "history"))


def test_a_short_text_is_a_poll_only_if_nothing_else_is_asked() -> None:
    for i in range(5):
        exchange("go on", f"chapter {i}")
    assert repeated("go on")
    exchange("Thank you, and what of the dragon?")
    assert not repeated("go on")


def test_a_polls_copies_and_answers_are_taken_out_of_recall() -> None:
    for i in range(5):
        exchange(POLL, f"{1000 - i} degrees")
    exchange("Something else", "Well.")
    assert set_aside(scope=SCOPE, digest=turn("user", POLL).digest) == 10
    assert [m.content for m in Message.objects.in_scope(SCOPE).recallable()] == ["Something else", "Well."]
    assert set_aside(scope=SCOPE, digest=turn("user", POLL).digest) == 0
    assert set_aside(scope=Scope("tests", "none"), digest=bytes(16)) == 0
    assert repeated(POLL)


def test_a_rule_is_kept_by_its_exchange_also_through_the_spool() -> None:
    entry = Entry(asked(rule="open-webui", memory="off"), actions.Answered(finished=timezone.now(), ended="answered"))
    store_entry(decode(encode(entry)), False)
    stored = Exchange.objects.get()
    assert (stored.rule, stored.memory, stored.ended, stored.request_ids) == ("open-webui", "off", "answered", [])
    assert not Message.objects.exists()


def test_of_a_partition_that_remembers_nothing_the_spool_stores_nothing() -> None:
    Partition.objects.create(name="secret", remember=Partition.Remember.NOTHING)
    question = asked(turn("user", "Hello"), scope=Scope("secret", "one"))
    store_entry(Entry(question, None), False)
    store_entry(Entry(question, actions.Answered(finished=timezone.now(), ended="answered")), False)
    assert not Exchange.objects.exists()
    assert not Message.objects.exists()


def test_what_a_partition_remembers_is_read_once_in_a_while(django_assert_num_queries: Any) -> None:
    Partition.objects.create(name="secret", remember=Partition.Remember.NOTHING)
    assert not policy.is_known("secret")
    with django_assert_num_queries(1):
        assert not policy.is_stored("secret") and policy.rules_act("secret")
    assert policy.is_known("secret")
    assert policy.is_stored("unheard of") and policy.rules_act("unheard of")
