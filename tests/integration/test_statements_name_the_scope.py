"""Every statement of a request about a scope's rows names the scope, so that tables can be distributed by it."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from conversations import actions, scopes
from conversations.backlog import work_off
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


def test_on_a_distributed_database_each_table_of_a_statement_is_bound_to_the_scope() -> None:
    """As Citus wants it: else it asks all nodes, or refuses. The keys are those of one server here."""
    history: list[Any] = [{"role": "user", "content": "My parrot is called Kiko."}]
    answer, edited = (
        {"role": "assistant", "content": "A fine name."},
        {"role": "assistant", "content": "A lovely name."},
    )
    question = {"role": "user", "content": "What is my parrot called?"}
    with as_if_distributed(), CaptureQueriesContext(connection) as queries:
        exchange(history, answer)
        exchange([*history, answer, question], CALL)
        exchange([*history, answer, question, CALL, RESULT], {"role": "assistant", "content": "Kiko."})
        exchange([*history, edited, question], {"role": "assistant", "content": "Kiko!"})  # a fork
        while work_off(configured_embedder()):
            pass
    about = [query["sql"] for query in queries.captured_queries if TABLE.search(query["sql"])]
    assert len(about) >= 40
    assert [sql for sql in about if unbound(sql) and DUE not in sql and ANY_NODE not in sql] == []
    assert [sql for sql in about if re.search(r"WITH.*INSERT INTO", sql, re.DOTALL)] == []


@pytest.mark.parametrize(
    ("sql", "tables"),
    [
        ("SELECT m.id FROM conversations_message m WHERE m.instance_id = 5", []),
        ("SELECT id FROM conversations_message WHERE id = 5", ["conversations_message"]),
        ("UPDATE conversations_message SET alone = true WHERE instance_id = 5", []),
        ('SELECT "conversations_message"."id" FROM "conversations_message" WHERE "conversations_message"."id" = 5',
         ["conversations_message"]),
        ("SELECT m.id FROM conversations_message m JOIN conversations_exchange e ON e.id = m.exchange_id "
         "WHERE m.instance_id = 5", ["e"]),
        ("SELECT i.id FROM conversations_instance i WHERE i.name = 'a'", ["i"]),
        ("SELECT i.id FROM conversations_instance i WHERE i.id = 5", []),
        ("INSERT INTO conversations_message (id, instance_id) VALUES (1, 5)", []),
    ],
)  # fmt: skip
def test_a_table_that_is_not_bound_is_found(sql: str, tables: list[str]) -> None:
    assert unbound(sql) == tables


TABLE = re.compile(
    r"\b(?P<verb>FROM|JOIN|UPDATE|INTO|,)\s+\"?(?P<table>conversations_(?:message|exchange|ledger|embedding|instance))\b\"?"
    r"(?:\s+(?!SET|WHERE|ORDER|JOIN|INNER|LEFT|ON|USING|AS|GROUP|LIMIT|FOR|CROSS)\"?(?P<alias>\w+)\"?)?"
)
DUE = "WHERE embed_due IS NOT NULL"  # the look for what is due asks all nodes
ANY_NODE = str(scopes.FIND).strip().split(" WHERE ", maxsplit=1)[0]  # and so does a process that meets a scope first


def unbound(sql: str) -> list[str]:
    """The names, in a statement, of distributed tables whose column of the scope it does not mention."""
    names = []
    for found in TABLE.finditer(sql):
        name = found["alias"] if found["alias"] and found["verb"] != "INTO" else found["table"]
        column = "id" if found["table"] == "conversations_instance" else "instance_id"
        qualified = rf'(?<![\w.])"?{name}"?\."?{column}"?\s*(?:=|IN\b)|=\s*"?{name}"?\."?{column}"?\b'
        bare = rf'(?<![."\w]){column}\s*=' if name == found["table"] else r"(?!)"
        inserted = found["verb"] == "INTO" and column in sql
        if not inserted and not re.search(f"{qualified}|{bare}", sql):
            names.append(name)
    return names


@contextmanager
def as_if_distributed() -> Iterator[None]:
    with (
        patch.object(scopes, "is_distributed", lambda: True),
        patch.object(actions, "is_distributed", lambda: True),
        patch.object(scopes, "_known", {}),
    ):
        yield
