"""Every round of a tool loop gets the same memories as its first."""

from __future__ import annotations

import json
import uuid
from importlib import import_module
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from conversations import actions
from conversations.embedding import configured_embedder
from conversations.forgetting import forget
from conversations.messages import add_messages
from conversations.models import Ledger
from conversations.querysets import Scope
from conversations.selection import Selection
from conversations.turns import Turn
from proxy.dialects.chat_completions.request import decode
from proxy.memory.added import added_by
from proxy.memory.ledger import kept
from proxy.memory.recollection import RecallRequest, question_key, recollect
from proxy.prompt.injection import Constraints, inject
from proxy.prompt.window import Limit

pytestmark = pytest.mark.django_db

SCOPE = Scope("tests", "loop")
QUESTION = {"role": "user", "content": "Will it rain?"}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]}
RESULT = {"role": "tool", "tool_call_id": "1", "content": "No."}
FORECAST = "The forecast says that it will rain on Friday."
BLOCK = '{"role": "system", "content": "<memory>"}'


def chat(*messages: Any) -> Any:
    return decode(json.dumps({"model": "gpt-4", "messages": messages}).encode())


def ask(*messages: Any, memory: str, injected: tuple[str, ...] = (), ledger: actions.Ledger | None = None) -> None:
    ledger = ledger or actions.Ledger(
        key=question_key(chat(*messages)), candidates=(), injected=injected, message_ids=(), tokens=4
    )
    asked = actions.Asked(
        trace_id=uuid.uuid4(),
        scope=SCOPE,
        created=timezone.now(),
        model="gpt-4",
        provider="openai",
        streamed=False,
        memory=memory,
        turns=tuple(Turn.from_payload(json.dumps(message), message) for message in messages),
        ledger=ledger,
    )
    actions.open_exchange(asked=asked)


def test_a_round_whose_recall_was_late_does_not_take_memories_from_later_rounds() -> None:
    ask(QUESTION, memory="on", injected=(BLOCK,))
    ask(QUESTION, CALL, RESULT, memory="degraded")
    embedder: Any = None  # later rounds embed nothing
    found = recollect(embedder, RecallRequest(SCOPE, chat(QUESTION, CALL, RESULT, CALL, RESULT), count=len))
    assert found.reused and found.reused.messages == (BLOCK,)


def test_every_round_rebuilds_what_the_first_was_given_and_stores_no_text_of_it() -> None:
    tell = {"role": "user", "content": FORECAST}
    add_messages(scope=SCOPE, messages=[(Turn.from_payload(json.dumps(tell), tell), timezone.now())])
    embedder = configured_embedder()
    sent = []
    rounds: list[Any] = [QUESTION]
    for _ in range(3):
        request = chat(*rounds)
        recalled = recollect(lambda: embedder, RecallRequest(SCOPE, request, count=len))
        injection = inject(
            request,
            recalled.additions,
            Constraints(1000, Limit(10_000, True), 10_000, "inside", len),
            reused=recalled.reused,
        )
        sent.append(injection.messages)
        kept_of_it = kept(recalled, injection, key=question_key(request), count=len)
        assert kept_of_it.injected == ()
        ask(*rounds, memory="on", ledger=kept_of_it)
        rounds += [CALL, RESULT]
    assert FORECAST in sent[0][-1]
    assert sent == [sent[0]] * 3
    for ledger in Ledger.objects.all():
        assert added_by(ledger) == (sent[0], True)
    assert Ledger.objects.count() == 3

    forget(Selection(search="forecast", partition="tests"), by="tests")
    assert [added_by(ledger).texts for ledger in Ledger.objects.all()] == [()] * 3
    assert not any(ledger.rendering or ledger.message_ids or ledger.entries for ledger in Ledger.objects.all())


def test_a_ledger_of_an_earlier_version_stays_readable_and_gets_its_scope() -> None:
    migration = import_module("conversations.migrations.0013_lean_ledgers")
    ask(QUESTION, memory="on", injected=(BLOCK,))
    entries = [{"id": 7, "arm": "recall", "kept": True, "why": "shown: relevant"}]
    Ledger.objects.update(instance=None, candidates=[], earlier_candidates=entries)
    with connection.schema_editor() as editor:
        migration.fill(None, editor)
    ledger = Ledger.objects.get()
    assert ledger.instance_id == ledger.exchange.instance_id
    assert ledger.entries == entries
    assert added_by(ledger) == ((BLOCK,), True)
    found = recollect(lambda: configured_embedder(), RecallRequest(SCOPE, chat(QUESTION, CALL, RESULT), count=len))
    assert found.reused and found.reused.messages == (BLOCK,)
