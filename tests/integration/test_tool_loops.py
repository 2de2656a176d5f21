"""Every round of a tool loop gets the same memories as its first."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from django.utils import timezone

from conversations import actions
from conversations.querysets import Scope
from conversations.turns import Turn
from proxy.dialects.chat_completions.request import decode
from proxy.memory.recollection import RecallRequest, question_key, recollect

pytestmark = pytest.mark.django_db

SCOPE = Scope("tests", "loop")
QUESTION = {"role": "user", "content": "Will it rain?"}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]}
RESULT = {"role": "tool", "tool_call_id": "1", "content": "No."}
BLOCK = '{"role": "system", "content": "<memory>"}'


def chat(*messages: Any) -> Any:
    return decode(json.dumps({"model": "gpt-4", "messages": messages}).encode())


def ask(*messages: Any, memory: str, injected: tuple[str, ...] = ()) -> None:
    ledger = actions.Ledger(
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
