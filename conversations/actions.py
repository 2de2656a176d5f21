"""Writes that touch several rows: keyword-only and atomic."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, overload

from django.db import connection, transaction
from django.db.models import F
from django.utils import timezone

from conversations import models
from conversations.capture import Alignment, Turn, align
from conversations.models import Exchange, Instance, Message, Partition
from conversations.querysets import Scope
from conversations.recall.lexemes import asks, search_vector
from conversations.states import Ended, MemoryState

Count = Callable[[str], int]  # text -> tokens

# Counting the tokens of 32 MB can take half a minute, which a transaction must not; a longer text is estimated.
COUNTED_CHARACTERS = 2**20

# No exchange is stored so late: one that seems to be was asked after the clock had been set back.
SET_BACK = timedelta(hours=1)


def uncounted(text: str) -> int:
    """Where no tokenizer is at hand: English has about four bytes a token."""
    return -(-len(text.encode(errors="replace")) // 4)


@dataclass(frozen=True, slots=True)
class Ledger:
    """What recall found and what was injected of it; the fields are those of the model."""

    key: bytes
    candidates: tuple[Mapping[str, Any], ...] = ()
    injected: tuple[str, ...] = ()
    message_ids: tuple[int, ...] = ()
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """The half of an exchange that is known when the request goes out."""

    trace_id: uuid.UUID
    scope: Scope
    created: datetime
    model: str
    provider: str
    streamed: bool
    turns: tuple[Turn, ...] = ()  # the request's, system prompts left out
    left_out: tuple[int, ...] = ()  # which of the turns the window had no room for, from 0
    prompts: tuple[tuple[int, str], ...] = ()  # (place in the request, JSON text) of system prompts
    parameters: str = ""  # the request's other fields, JSON text
    memory: str = MemoryState.ON
    ledger: Ledger | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """The half that is known when the answer has come, or has failed to."""

    finished: datetime
    ended: str
    status: int | None = None
    turns: tuple[Turn, ...] = ()  # one a choice
    finish_reason: str = ""
    error: str = ""
    usage: Mapping[str, Any] | None = None
    cost: Decimal | None = None
    timings: Mapping[str, float] = field(default_factory=dict)


@transaction.atomic
def open_exchange(*, asked: Asked, count: Count = uncounted) -> Exchange:
    """Store a request: its exchange, and those of its messages that are new. Twice is once (by trace id).

    The commit waits for the disk: an exchange that a crash of PostgreSQL took along would look like a forgotten one
    to close_exchange, and its answer would not be stored.
    """
    instance = lock_instance(scope=asked.scope)
    return Exchange.objects.filter(trace_id=asked.trace_id).first() or _open(instance, asked, count)


def _open(instance: Instance, asked: Asked, count: Count) -> Exchange:
    known = Message.objects.known(instance.pk, [turn.digest for turn in asked.turns])
    alone = len(asked.turns) == 1
    question, latest = _latest(instance) if alone else (None, None)
    where = align(asked.turns, known, question)
    if alone and where.parent is None:
        where = replace(where, parent=latest)
    created = _not_before(instance, asked.created)
    exchange_id, ids = _reserve_ids_for(where)
    questions = [pk for pk, turn in zip(ids, asked.turns, strict=True) if turn.role == "user"]
    exchange = Exchange(
        id=exchange_id,
        trace_id=asked.trace_id,
        instance=instance,
        created=created,
        model=asked.model,
        provider=asked.provider,
        streamed=asked.streamed,
        memory=asked.memory,
        memories=len(asked.ledger.message_ids) if asked.ledger else 0,
        memory_tokens=asked.ledger.tokens if asked.ledger else 0,
        parameters=asked.parameters,
        prompts=[list(prompt) for prompt in asked.prompts],
        request_ids=ids,
        left_out=list(asked.left_out),
        question_id=questions[-1] if questions else None,
    )
    exchange.save(force_insert=True)
    Message.objects.bulk_create(_new_messages(exchange, asked.turns, where, count, alone=alone))
    _follow(where, keep=ids)
    if ledger := asked.ledger:
        models.Ledger.objects.create(
            exchange=exchange,
            key=ledger.key,
            candidates=list(ledger.candidates),
            considered=[candidate["id"] for candidate in ledger.candidates],
            injected=list(ledger.injected),
            message_ids=list(ledger.message_ids),
            tokens=ledger.tokens,
        )
    _count(instance=instance, messages=where.ids.count(None), exchanges=1, active=created)
    return exchange


@transaction.atomic
def close_exchange(*, asked: Asked, answered: Answered, count: Count = uncounted, opened: bool = False) -> None:
    """Store what came back. Opens the exchange first where that has not succeeded yet.

    Where it has (`opened`) and the exchange is not there, it was forgotten meanwhile, and nothing is stored.
    """
    instance = lock_instance(scope=asked.scope, make=not opened)
    exchange = Exchange.objects.filter(trace_id=asked.trace_id).first() if instance else None
    if instance is None or (exchange is None and opened):
        return
    exchange = exchange or _open(instance, asked, count)
    if exchange.ended not in (Exchange.Ended.OPEN, Exchange.Ended.INTERRUPTED):
        return
    finished = _not_before(instance, answered.finished)
    if exchange.created - finished > SET_BACK:
        finished = exchange.created
    before = Message.objects.filter(pk__in=exchange.request_ids[-1:]).first()  # None also where it was forgotten
    last = before.pk if before else None
    abandoned = before is not None and before.abandoned
    partial = answered.ended != Exchange.Ended.ANSWERED
    answers = [
        unsaved_message(
            instance,
            exchange,
            turn,
            count,
            created=finished,
            parent_id=last,
            choice=choice,
            partial=partial,
            abandoned=abandoned,
        )
        for choice, turn in enumerate(answered.turns)
    ]
    Message.objects.bulk_create(answers)
    if answers and before and before.exchange_id != exchange.pk:  # asked before, and perhaps answered
        _abandon_siblings(parents=[before.pk], keep=[answer.pk for answer in answers])
    usage = answered.usage or {}
    exchange.finished = finished
    exchange.ended = answered.ended
    exchange.status = answered.status
    exchange.finish_reason = answered.finish_reason
    exchange.error = answered.error
    exchange.usage = dict(usage) or None
    exchange.input_tokens = _whole(usage.get("prompt_tokens"))
    exchange.output_tokens = _whole(usage.get("completion_tokens"))
    exchange.cost = answered.cost
    exchange.timings = dict(answered.timings)
    exchange.save(
        update_fields=[
            "finished",
            "ended",
            "status",
            "finish_reason",
            "error",
            "usage",
            "input_tokens",
            "output_tokens",
            "cost",
            "timings",
        ]
    )
    _count(instance=instance, messages=len(answers), exchanges=0, active=finished)


@transaction.atomic
def add_messages(
    *, scope: Scope, messages: Sequence[tuple[Turn, datetime]], count: Count = uncounted, embed: bool = True
) -> list[int]:
    """Store a conversation that came by no exchange: its turns and when each was said, oldest first.

    Each turn grows from the one before it. With `embed` they go onto the backlog; without, whoever adds them sees
    to their vectors. Returns the ids, in order.
    """
    instance = lock_instance(scope=scope)
    ids = reserve_ids(len(messages))
    rows = [
        unsaved_message(instance, None, turn, count, id=pk, created=created, parent_id=parent)
        for pk, parent, (turn, created) in zip(ids, [None, *ids], messages, strict=False)
    ]
    if not embed:
        for row in rows:
            row.embed_due = None
    Message.objects.bulk_create(rows, batch_size=500)
    if messages:
        _count(instance=instance, messages=len(messages), exchanges=0, active=max(created for _, created in messages))
    return ids


@overload
def lock_instance(*, scope: Scope) -> Instance: ...
@overload
def lock_instance(*, scope: Scope, make: bool) -> Instance | None: ...
def lock_instance(*, scope: Scope, make: bool = True) -> Instance | None:
    """The scope's instance, locked until the transaction ends: a scope is written in turn.

    One that does not exist is made, or, without `make`, None. The lock leaves references to the instance alone.
    """
    find = Instance.objects.of_scope(scope).select_for_update(of=("self",), no_key=True)
    if (instance := find.first()) or not make:
        return instance
    partition, _ = Partition.objects.get_or_create(name=scope.partition)
    Instance.objects.get_or_create(partition=partition, name=scope.instance)
    return find.get()


def _not_before(instance: Instance, moment: datetime) -> datetime:
    """The moment; or, where the clock has been set back, the latest that the (locked) scope knows.

    What is a little earlier than that was only stored late, and keeps its place.
    """
    latest = instance.last_active or moment
    return latest if latest - moment > SET_BACK else moment


def interrupt_open_exchanges() -> int:
    """Mark what a server that died left open, so that the same question again is a retry. Returns how many."""
    return Exchange.objects.filter(ended=Exchange.Ended.OPEN).update(ended=Exchange.Ended.INTERRUPTED)


def interrupt_exchange(*, trace_id: uuid.UUID) -> None:
    """Mark an exchange as interrupted if it is still open."""
    Exchange.objects.filter(trace_id=trace_id, ended=Ended.OPEN).update(ended=Ended.INTERRUPTED)


def _new_messages(
    exchange: Exchange, turns: Sequence[Turn], where: Alignment, count: Count, *, alone: bool
) -> list[Message]:
    """The messages that are new, each growing from the one before it."""
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
        )
        for i, turn in enumerate(turns)
        if where.ids[i] is None
    ]


def _latest(instance: Instance) -> tuple[int | None, int | None]:
    """The instance's latest user message, and its latest message at all."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT (SELECT id FROM conversations_message WHERE instance_id = %(instance)s AND role = 'user'
                    ORDER BY created DESC, id DESC LIMIT 1),
                   (SELECT id FROM conversations_message WHERE instance_id = %(instance)s
                    ORDER BY created DESC, id DESC LIMIT 1)
            """,
            {"instance": instance.pk},
        )
        row: tuple[int | None, int | None] = cursor.fetchone()
        return row


def _reserve_ids_for(where: Alignment) -> tuple[int, list[int]]:
    """An id for the exchange, and the ids of its messages: of known ones their own, of new ones fresh ones."""
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


def reserve_ids(count: int) -> list[int]:
    """Ids for so many messages, ascending."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT nextval(pg_get_serial_sequence('conversations_message', 'id')) FROM generate_series(1, %s)",
            [count],
        )
        return [row[0] for row in cursor.fetchall()]


def unsaved_message(instance: Instance, exchange: Exchange | None, turn: Turn, count: Count, **fields: Any) -> Message:
    """A message made ready to be inserted: what is derived from its turn, and `fields` as they are."""
    return Message(
        instance=instance,
        exchange=exchange,
        role=turn.role,
        name=turn.name,
        content=turn.content,
        payload=turn.payload,
        digest=turn.digest,
        tokens=count(turn.content) if len(turn.content) <= COUNTED_CHARACTERS else uncounted(turn.content),
        asks=asks(turn.content),
        lexemes=search_vector(instance.pk, turn.name, turn.content),
        embed_due=timezone.now() if turn.content.strip() else None,
        **fields,
    )


def _follow(where: Alignment, *, keep: Sequence[int]) -> None:
    """The client has gone down this path: it lives again, and what forks off it is abandoned."""
    if where.joined:
        Message.objects.filter(pk__in=where.path, alone=True, parent__in=where.path).update(alone=False)
    if where.revived:
        Message.objects.filter(pk__in=where.path, abandoned=True).update(abandoned=False)
    if where.forks:
        _abandon_siblings(parents=[*where.forks], keep=[*where.path, *keep])


def _abandon_siblings(*, parents: Sequence[int], keep: Sequence[int]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH RECURSIVE branch AS (
                SELECT id FROM conversations_message
                WHERE parent_id = ANY(%(parents)s) AND NOT alone AND id <> ALL(%(keep)s)
                UNION ALL
                SELECT child.id FROM conversations_message child JOIN branch ON child.parent_id = branch.id
                WHERE NOT child.alone
            )
            UPDATE conversations_message SET abandoned = true
            WHERE id IN (SELECT id FROM branch) AND NOT abandoned
            """,
            {"parents": list(parents), "keep": list(keep)},
        )


def _count(*, instance: Instance, messages: int, exchanges: int, active: datetime) -> None:
    Instance.objects.filter(pk=instance.pk).update(
        message_count=F("message_count") + messages,
        exchange_count=F("exchange_count") + exchanges,
        last_active=active,
    )


def _whole(value: Any) -> int | None:
    """A count as a provider states it, or None for what is none (it comes from outside)."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31 else None
