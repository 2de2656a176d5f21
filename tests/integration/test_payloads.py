"""Payloads are stored without their content; all readers get them whole."""

from __future__ import annotations

import json
from importlib import import_module

import pytest
from django.db import connection
from django.utils import timezone

from conversations.lookup import message as looked_up
from conversations.messages import add_messages
from conversations.models import Message
from conversations.payloads import MARKS
from conversations.querysets import Scope, StoredBranches
from conversations.selection import Selection
from conversations.turns import Turn
from tests.integration.test_capture import answer, ask, assistant, user

pytestmark = pytest.mark.django_db

LONG = 'The lighthouse at Lund <has> a "lamp", 日本語 & a keeper.\n' * 5
CALLS = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]


def stored(pk: int) -> str:
    """The column as it is."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT payload FROM conversations_message WHERE id = %s", [pk])
        return str((cursor.fetchone() or ("",))[0])


def test_every_way_of_storing_leaves_the_content_out_and_every_reader_gets_the_whole() -> None:
    asked = ask([user(LONG)])
    answer(asked, LONG + "Yes.")  # the short way, since the scope exists
    calling = {"role": "assistant", "content": LONG + "I call.", "tool_calls": CALLS}
    add_messages(
        scope=Scope("tests", "x"), messages=[(Turn.from_payload(json.dumps(calling), calling), timezone.now())]
    )
    expected = [user(LONG), assistant(LONG + "Yes."), calling]
    rows = list(Message.objects.order_by("id"))
    for row, payload in zip(rows, expected, strict=True):
        whole = json.dumps(payload)
        assert len(stored(row.pk)) < len(whole) - len(LONG)
        assert set(MARKS) & set(stored(row.pk))
        assert row.payload == whole
        assert Message.objects.defer("payload").get(pk=row.pk).payload == whole
        assert Message.objects.only("payload").get(pk=row.pk).payload == whole
        assert (looked_up(row.pk) or {})["payload"] == payload
        assert StoredBranches(row.instance_id).said([row.pk])[row.pk].payload == whole
        row.save()
        assert Message.objects.get(pk=row.pk).payload == whole


def test_a_size_is_that_of_the_whole_payload() -> None:
    ask([user("plain words " * 20)])
    row = Message.objects.with_raw(10**6).get()
    size = len(row.payload.encode())
    assert row.size == size  # type: ignore[attr-defined]
    assert Selection(larger_than=size - 1, ids=(row.pk,)).messages().exists()
    assert not Selection(larger_than=size, ids=(row.pk,)).messages().exists()


def test_going_back_writes_whole_payloads() -> None:
    answer(ask([user(LONG)]), "yes")
    migration = import_module("conversations.migrations.0016_payload_without_content")
    with connection.schema_editor() as editor:
        migration.make_whole(None, editor)
    first = Message.objects.earliest("id")
    assert stored(first.pk) == first.payload == json.dumps(user(LONG))
