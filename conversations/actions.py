"""Opens and closes exchanges: stores the request, then the answer. Functions are keyword-only and atomic."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.db import connection, transaction
from django.db.models import Q
from django.utils import timezone

from conversations import late, models
from conversations.branches import abandon_siblings, follow, latest_messages
from conversations.capture import Alignment, align
from conversations.chains import after, answer_of, resolved
from conversations.exchange_sql import SET_BACK, SKEW, Opened, QuestionVector, close_in_one, open_in_one, store_in_one
from conversations.ledger_entries import only_considered
from conversations.messages import (
    add_to_counters,
    estimated_tokens,
    lock_instance,
    reserve_ids,
    unsaved_message,
    whole_count,
)
from conversations.models import Exchange, Instance, Message
from conversations.querysets import Scope, StoredBranches
from conversations.scopes import is_distributed, number_of
from conversations.states import CHAT_COMPLETIONS, Ended, MemoryState
from conversations.turns import Count, Turn


@dataclass(frozen=True, slots=True)
class Ledger:
    """What recall found, and what was added to the request. The fields are those of the model."""

    key: bytes
    candidates: tuple[Mapping[str, Any], ...] = ()
    injected: tuple[str, ...] = ()
    message_ids: tuple[int, ...] = ()
    tokens: int = 0
    rendering: bytes = b""


@dataclass(frozen=True, slots=True)
class Asked:
    """The half of an exchange that is known when the request is sent to the provider."""

    trace_id: uuid.UUID
    scope: Scope
    created: datetime
    model: str
    provider: str
    streamed: bool
    turns: tuple[Turn, ...] = ()  # of the request, without system prompts
    left_out: tuple[int, ...] = ()  # positions in `turns` of those that the window had no room for
    prompts: tuple[tuple[int, str], ...] = ()  # (position in the request, JSON text) of system prompts
    parameters: str = ""  # the request's other fields, JSON text
    memory: str = MemoryState.ON
    ledger: Ledger | None = None
    rule: str = ""  # the name of the rule that held; its turns are left out
    key_id: str = ""  # the public id of the access key
    served_by: uuid.UUID | None = None  # the process that is to end it, see servers.py
    dialect: str = CHAT_COMPLETIONS
    follows: str = ""  # the provider's id of the answer or the conversation that the request continues


@dataclass(frozen=True, slots=True)
class Answered:
    """The half that is known when the answer has arrived or failed."""

    finished: datetime
    ended: str
    status: int | None = None
    turns: tuple[Turn, ...] = ()  # one for each choice
    finish_reason: str = ""
    error: str = ""
    usage: Mapping[str, Any] | None = None
    cost: Decimal | None = None
    timings: Mapping[str, float] = field(default_factory=dict)
    response_id: str = ""  # the provider's, by which a later request may continue from here


def open_exchange(
    *,
    asked: Asked,
    count: Count = estimated_tokens,
    replayed: bool = False,
    vector: QuestionVector | None = None,
) -> Opened:
    """Store a request: its exchange and its new messages. Idempotent by trace id. `count` counts a text's tokens.

    `replayed`: it comes from the spool, and other servers may have stored later exchanges of the scope before it.
    `vector` is stored with the question in the common case only, as the result says.
    The commit waits for the disk. If a crash of PostgreSQL lost the exchange, close_exchange would take it for a
    forgotten one and not store the answer.
    """
    return open_in_one(asked, count, replayed, vector) or _open_anywhere(asked, count, replayed=replayed)


@transaction.atomic
def _open_anywhere(asked: Asked, count: Count, *, replayed: bool) -> Opened:
    instance = lock_instance(scope=asked.scope)
    exchange = Exchange.objects.filter(instance=instance, trace_id=asked.trace_id).first() or _open(
        instance, asked, None, count, replayed=replayed
    )
    return Opened(exchange.pk, exchange.instance_id, exchange.question_id)


def _open(instance: Instance, asked: Asked, answered: Answered | None, count: Count, *, replayed: bool) -> Exchange:
    created, is_late = _time(instance, asked.created, timedelta() if replayed else SKEW)
    turns = resolved(instance.pk, asked.turns)
    continued = answer_of(instance.pk, asked.follows)
    alone = len(turns) == 1 and continued is None
    left = False
    if continued is not None:
        where = after(instance.pk, continued, turns)
    else:
        known = Message.objects.known(instance.pk, [turn.digest for turn in turns])
        if is_late:
            known = late.known_then(instance, known, created)
        question, latest = latest_messages(instance, created if is_late else None) if alone else (None, None)
        where = align(turns, known, question, StoredBranches(instance.pk))
        if is_late and where.ids[-1:] == (None,):
            where = _resent(instance, asked, answered, created, where)
        if alone and where.parent is None:
            where = replace(where, parent=latest)
        left = is_late and not alone and None in where.ids and late.is_left(where, instance, created)
    exchange_id, ids = _reserve_ids_for(where)
    questions = [pk for pk, turn in zip(ids, asked.turns, strict=True) if turn.role == "user"]
    exchange = Exchange(
        id=exchange_id,
        trace_id=asked.trace_id,
        instance=instance,
        created=created,
        dialect=asked.dialect,
        follows=asked.follows,
        model=asked.model,
        provider=asked.provider,
        streamed=asked.streamed,
        memory=asked.memory,
        memories=len(asked.ledger.message_ids) if asked.ledger else 0,
        memory_tokens=asked.ledger.tokens if asked.ledger else 0,
        rule=asked.rule,
        key_id=asked.key_id,
        served_by=asked.served_by,
        parameters=asked.parameters,
        prompts=[list(prompt) for prompt in asked.prompts],
        request_ids=ids,
        left_out=list(asked.left_out),
        question_id=questions[-1] if questions else None,
    )
    exchange.save(force_insert=True)
    new = _new_messages(exchange, asked.turns, where, count, alone=alone, abandoned=left)
    Message.objects.bulk_create(new)
    follow(where, instance, keep=ids, until=created if is_late else None)
    if is_late and ids:
        taken = late.take_history(ids, exchange, created)
        if (alone and not new) or ids[-1] in taken:
            late.adopt(ids[-1], asked.turns[-1], exchange, count, created)
        if alone and not new:
            late.place_sent_alone(ids[0], instance, latest)
        late.connect(ids, instance)
        if not left:
            late.go_on_from(ids[-1], instance, created)
    elif where.pieced:
        late.connect(ids, instance)
    if ledger := asked.ledger:
        models.Ledger.objects.create(
            exchange=exchange,
            instance=instance,
            key=ledger.key,
            candidates=list(ledger.candidates),
            considered=only_considered(ledger.candidates, ledger.message_ids),
            injected=list(ledger.injected),
            message_ids=list(ledger.message_ids),
            rendering=ledger.rendering,
            tokens=ledger.tokens,
        )
    add_to_counters(instance=instance, messages=where.ids.count(None), exchanges=1, active=created)
    return exchange


def _resent(
    instance: Instance, asked: Asked, answered: Answered | None, moment: datetime, where: Alignment
) -> Alignment:
    """The alignment with the question that is there if later requests brought it along."""
    answers = answered.turns if answered else ()
    failed = answered is not None and not answers and len(asked.turns) == 1
    found = late.resent_question(instance, asked.turns[-1], moment, answers, failed=failed)
    if found is None:
        return where
    return replace(where, ids=(*where.ids[:-1], found), path=where.path | {found})


def close_exchange(
    *,
    asked: Asked,
    answered: Answered,
    count: Count = estimated_tokens,
    opened: bool = False,
    replayed: bool = False,
) -> None:
    """Store the answer; opens the exchange first if that has not succeeded yet.

    If it has (`opened`) and the exchange is missing, it has been forgotten since, and nothing is stored. `replayed` is
    that of open_exchange.
    """
    if replayed and not opened and store_in_one(asked, answered, count):
        return
    if not close_in_one(asked, answered, count):
        _close_anything(asked, answered, count, opened=opened, replayed=replayed)


@transaction.atomic
def _close_anything(asked: Asked, answered: Answered, count: Count, *, opened: bool, replayed: bool) -> None:
    instance = lock_instance(scope=asked.scope, make=not opened)
    exchange = Exchange.objects.filter(instance=instance, trace_id=asked.trace_id).first() if instance else None
    if instance is None or (exchange is None and opened):
        return
    exchange = exchange or _open(instance, asked, answered, count, replayed=replayed)
    if exchange.ended not in (Exchange.Ended.OPEN, Exchange.Ended.INTERRUPTED):
        return
    instance.refresh_from_db(fields=["last_active"])
    finished, is_late = _time(instance, answered.finished, timedelta())
    finished = max(finished, exchange.created)
    answers = _store_answers(instance, exchange, answered, finished, count, is_late=is_late)
    _finish(exchange, answered, finished)
    add_to_counters(instance=instance, messages=answers, exchanges=0, active=finished)


def _store_answers(
    instance: Instance, exchange: Exchange, answered: Answered, finished: datetime, count: Count, *, is_late: bool
) -> int:
    """Store the messages of the answer, one for each choice. Returns the number of new ones."""
    before = Message.objects.filter(instance=instance, pk__in=exchange.request_ids[-1:]).first()  # None if forgotten
    resent = late.resent_answers(before, exchange) if before else {}
    partial = answered.ended != Exchange.Ended.ANSWERED
    there = {choice: resent[turn.digest] for choice, turn in enumerate(answered.turns) if turn.digest in resent}
    replaced = is_late and before is not None and late.is_replaced(before, finished, there.values())
    ids = dict(zip(range(len(answered.turns)), reserve_ids(len(answered.turns)), strict=True)) | there
    answers = [
        unsaved_message(
            instance,
            exchange,
            turn,
            count,
            id=ids[choice],
            created=finished,
            parent_id=before.pk if before else None,
            choice=choice,
            partial=partial,
            abandoned=replaced or (before is not None and before.abandoned),
        )
        for choice, turn in enumerate(answered.turns)
        if choice not in there
    ]
    Message.objects.bulk_create(answers)
    for choice, pk in there.items():
        late.adopt(pk, answered.turns[choice], exchange, count, finished, choice=choice, partial=partial)
    if answers and before and before.exchange_id != exchange.pk:  # an earlier exchange asked it, and may have an answer
        abandon_siblings(instance, parents=[before.pk], keep=list(ids.values()), until=finished if is_late else None)
    if ids and before and (is_late or there) and not (replaced or before.abandoned):
        late.go_on_from(max(there.values(), default=max(ids.values())), instance, finished, answers=before.pk)
    return len(answers)


def _finish(exchange: Exchange, answered: Answered, finished: datetime) -> None:
    """Store how the exchange ended."""
    usage = answered.usage or {}
    ending = {
        "finished": finished,
        "ended": answered.ended,
        "status": answered.status,
        "finish_reason": answered.finish_reason,
        "error": answered.error,
        "usage": dict(usage) or None,
        "input_tokens": whole_count(usage.get("prompt_tokens")),
        "output_tokens": whole_count(usage.get("completion_tokens")),
        "cost": answered.cost,
        "timings": dict(answered.timings),
        "response_id": answered.response_id,
    }
    Exchange.objects.filter(pk=exchange.pk, instance=exchange.instance_id).update(**ending)


def _time(instance: Instance, moment: datetime, skew: timedelta) -> tuple[datetime, bool]:
    """The time to store with in the (locked) scope, and whether it is late: before the latest that is stored there.

    It is the scope's latest time if the clock has been set back since, or if the moment is earlier by the `skew` of two
    hosts' clocks at most.
    """
    latest = instance.last_active
    if latest is None or latest <= moment:
        return moment, False
    if latest - timezone.now() > SET_BACK or latest - moment <= skew:
        return latest, False
    return moment, True


def lock_scopes(*, scopes: Collection[Scope]) -> None:
    """Lock the instances of several scopes for the transaction under way, in the order in which forgetting locks them.

    Two transactions that lock them one by one could wait for each other.
    """
    if is_distributed():  # a statement locks rows of one node only
        for pk in sorted(filter(None, map(number_of, scopes))):
            list(Instance.objects.filter(pk=pk).select_for_update(no_key=True).values_list("pk"))
        return
    named = Q(pk__in=())
    for scope in scopes:
        named |= Q(partition__name=scope.partition, name=scope.instance)
    list(Instance.objects.filter(named).order_by("pk").select_for_update(of=("self",), no_key=True).values_list("pk"))


def interrupt_exchange(*, instance_id: int, trace_id: uuid.UUID) -> None:
    """Mark an exchange as interrupted if it is still open."""
    exchanges = Exchange.objects.filter(instance=instance_id, trace_id=trace_id, ended=Ended.OPEN)
    exchanges.update(ended=Ended.INTERRUPTED)


def _new_messages(
    exchange: Exchange, turns: Sequence[Turn], where: Alignment, count: Count, *, alone: bool, abandoned: bool
) -> list[Message]:
    """The new messages of a request, each growing from the one before it."""
    last_known = max((i for i, pk in enumerate(where.ids) if pk is not None), default=-1)
    return [
        unsaved_message(
            exchange.instance,
            exchange,
            turn,
            count,
            id=exchange.request_ids[i],
            created=exchange.created,
            parent_id=where.parent if i == last_known + 1 else (exchange.request_ids[i - 1] if i else None),
            alone=alone,
            abandoned=abandoned,
        )
        for i, turn in enumerate(turns)
        if where.ids[i] is None
    ]


def _reserve_ids_for(where: Alignment) -> tuple[int, list[int]]:
    """A new id for the exchange, and the ids of its messages: known ones keep theirs, new ones get new ids."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT nextval(pg_get_serial_sequence('conversations_exchange', 'id')),
                   ARRAY(SELECT nextval(pg_get_serial_sequence('conversations_message', 'id'))
                         FROM generate_series(1, %s))
            """,
            [where.ids.count(None)],
        )
        row: tuple[int, list[int]] = cursor.fetchone()
    ids = iter(row[1])
    return row[0], [next(ids) if pk is None else pk for pk in where.ids]
