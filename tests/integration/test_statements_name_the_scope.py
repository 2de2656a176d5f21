"""Every statement of a request about a scope's rows names the scope, so that tables can be distributed by it."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from conversations import actions
from conversations.embedding import configured_embedder
from conversations.models import Ledger
from conversations.querysets import Scope
from conversations.turns import Turn
from proxy.dialects.chat_completions.request import decode
from proxy.memory.ledger import kept
from proxy.memory.recollection import RecallRequest, question_key, recollect
from proxy.prompt.injection import Constraints, inject
from proxy.prompt.window import Limit

pytestmark = pytest.mark.django_db

SCOPE = Scope("statements", "scope")
OF_A_SCOPE = re.compile(r"\bconversations_(message|exchange|ledger|embedding)\b")
CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]}
RESULT = {"role": "tool", "tool_call_id": "1", "content": "No."}


def turn(message: Any) -> Turn:
    return Turn.from_payload(json.dumps(message), message)


def exchange(messages: list[Any], reply: Any) -> None:
    """One exchange as a server stores it: recall, question, answer."""
    chat = decode(json.dumps({"model": "gpt-4", "messages": messages}).encode())
    embedder = configured_embedder()
    recalled = recollect(lambda: embedder, RecallRequest(SCOPE, chat, count=len))
    constraints = Constraints(1000, Limit(10_000, True), 10_000, "inside", len)
    injection = inject(chat, recalled.additions, constraints, reused=recalled.reused)
    asked = actions.Asked(
        trace_id=uuid.uuid4(),
        scope=SCOPE,
        created=timezone.now(),
        model="gpt-4",
        provider="openai",
        streamed=False,
        turns=tuple(map(turn, messages)),
        ledger=kept(recalled, injection, key=question_key(chat), count=len),
    )
    actions.open_exchange(asked=asked)
    answered = actions.Answered(finished=timezone.now(), ended="answered", status=200, turns=(turn(reply),))
    actions.close_exchange(asked=asked, answered=answered)


def test_statements_about_a_scopes_rows_name_the_scope() -> None:
    history: list[Any] = [{"role": "user", "content": "My parrot is called Kiko."}]
    exchange(history, {"role": "assistant", "content": "A fine name."})
    history += [
        {"role": "assistant", "content": "A fine name."},
        {"role": "user", "content": "What is my parrot called?"},
    ]
    with CaptureQueriesContext(connection) as queries:
        exchange(history, CALL)
        exchange([*history, CALL, RESULT], {"role": "assistant", "content": "Kiko."})
    about = [query["sql"] for query in queries.captured_queries if OF_A_SCOPE.search(query["sql"])]
    assert len(about) >= 8
    assert [sql for sql in about if "instance_id" not in sql] == []
    assert not Ledger.objects.filter(instance=None).exists()
