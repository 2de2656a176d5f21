"""A replay stores many exchanges in one transaction, and the good ones one by one where a bad one is among them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from conversations import actions
from conversations.models import Exchange, Message
from conversations.querysets import Scope
from proxy.providers import tokens
from proxy.spool import replaying
from proxy.spool.record import Entry
from proxy.spool.replaying import replay_to_database, store_entries, store_entry
from proxy.spool.writing import Spool
from tests.integration.test_capture import assistant, user
from tests.integration.test_exchange_sql import turn

pytestmark = pytest.mark.django_db(transaction=True)

SCOPES, EACH = 6, 5


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spool]:
    tokens.prepare(tmp_path / "tiktoken")
    monkeypatch.setattr(replaying, "spool_folder", lambda: tmp_path)
    writing = Spool(tmp_path, limit=2**30)
    yield writing
    writing.close()


def entries(*, model: str = "gpt-4o") -> list[Entry]:
    """Conversations of some scopes, whose exchanges alternate: the question and the answer of each, apart."""
    begin, found = timezone.now() - timedelta(hours=1), []
    for number in range(EACH):
        for at in range(SCOPES):
            history: list[Any] = [
                message for n in range(number) for message in (user(f"q{at}/{n}"), assistant(f"a{at}/{n}"))
            ]
            moment = begin + timedelta(minutes=number, seconds=at)
            asked = actions.Asked(
                trace_id=uuid.uuid4(),
                scope=Scope("replayed", str(at)),
                created=moment,
                model=model,
                provider="openai",
                streamed=False,
                turns=tuple(map(turn, [*history, user(f"q{at}/{number}")])),
                ledger=actions.Ledger(bytes(16), rendering=b"\x00\x01"),
            )
            answered = actions.Answered(
                finished=moment + timedelta(seconds=2),
                ended="answered",
                status=200,
                turns=(turn(assistant(f"a{at}/{number}")),),
            )
            found += [Entry(asked), Entry(replace(asked, turns=asked.turns), answered)]
    return found


def keep(spool: Spool, all_: list[Entry]) -> None:
    for future in [spool.keep(lambda entry=entry: entry) for entry in all_]:  # type: ignore[misc]
        future.result()


def is_whole() -> bool:
    """Whether each conversation is stored once, in order, on one branch."""
    for at in range(SCOPES):
        rows = list(Message.objects.in_scope(Scope("replayed", str(at))).order_by("id"))
        expected = [text for number in range(EACH) for text in (f"q{at}/{number}", f"a{at}/{number}")]
        if [row.content for row in rows] != expected or any(row.abandoned for row in rows):
            return False
        if [row.parent_id for row in rows] != [None, *(row.pk for row in rows[:-1])]:
            return False
    return Exchange.objects.filter(ended="answered").count() == SCOPES * EACH


def test_many_exchanges_take_few_statements_and_one_transaction(spool: Spool) -> None:
    keep(spool, entries())
    with CaptureQueriesContext(connection) as queries:
        done = replay_to_database(replaying.spool_folder())
    assert done == (2 * SCOPES * EACH, 0, 0)
    assert is_whole()
    assert spool.pending() == 0
    sent = [query["sql"] for query in queries.captured_queries]
    assert sum("WITH RECURSIVE" in sql for sql in sent) <= SCOPES * EACH + SCOPES * 2
    assert sum(sql == "COMMIT" for sql in sent) <= 2


def test_a_bad_exchange_costs_only_itself(spool: Spool) -> None:
    bad = entries()[0].asked
    keep(spool, [*entries()[:20], Entry(replace(bad, trace_id=uuid.uuid4(), scope=Scope("n" * 300, "x"))), *entries()])
    done = replay_to_database(replaying.spool_folder())
    assert done.rejected == 1
    assert done.stored == 20 + 2 * SCOPES * EACH
    assert spool.pending() == 0


@pytest.mark.parametrize("failing", [1, 3], ids=["at once", "after some"])
def test_a_replay_that_breaks_off_stores_nothing_twice(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    keep(spool, entries())
    calls = 0

    def breaking(store: Callable[..., None]) -> Callable[..., None]:
        def call(*given: Any) -> None:
            nonlocal calls
            store(*given)
            calls += 1
            if calls >= failing:  # the connection is lost before the caller hears of the commit
                raise OperationalError("gone")

        return call

    monkeypatch.setattr(replaying, "BATCH", 7)
    with monkeypatch.context() as broken:
        broken.setattr(replaying, "store_entries", breaking(store_entries))
        broken.setattr(replaying, "store_entry", breaking(store_entry))
        with pytest.raises(OperationalError):
            replay_to_database(replaying.spool_folder())
    replay_to_database(replaying.spool_folder())
    assert is_whole()
    assert spool.pending() == 0
