"""Writes that touch several rows: keyword-only and atomic."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.contrib.postgres.search import SearchVector
from django.db import connection, transaction
from django.db.models import F, Value
from django.utils import timezone

from conversations import models
from conversations.capture import Alignment, Turn, align
from conversations.models import Exchange, Instance, Message, Partition
from conversations.querysets import Scope

Count = Callable[[str], int]  # text -> tokens


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
    prompts: tuple[tuple[int, str], ...] = ()  # (place in the request, JSON text) of system prompts
    parameters: str = ""  # the request's other fields, JSON text
    memory: str = "on"
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
    """Store a request: its exchange, and those of its messages that are new. Twice is once (by trace id)."""
    instance = lock_instance(scope=asked.scope)
    if already := Exchange.objects.filter(trace_id=asked.trace_id).first():
        return already
    known = Message.objects.known(instance.pk, [turn.digest for turn in asked.turns])
    alone = len(asked.turns) == 1
    where = align(asked.turns, known, _latest(instance, role="user") if alone else None)
    if alone and where.parent is None:
        where = replace(where, parent=_latest(instance))
    exchange = Exchange(
        trace_id=asked.trace_id,
        instance=instance,
        created=asked.created,
        model=asked.model,
        provider=asked.provider,
        streamed=asked.streamed,
        memory=asked.memory,
        parameters=asked.parameters,
        prompts=[list(prompt) for prompt in asked.prompts],
    )
    exchange.save(force_insert=True)
    ids = _store_turns(instance, exchange, asked.turns, where, count, alone=alone)
    _follow(path=[*where.path], keep=ids, ends=where.parent)
    exchange.request_ids = ids
    exchange.question_id = next(
        (pk for pk, turn in zip(reversed(ids), reversed(asked.turns), strict=True) if turn.role == "user"),
        None,
    )
    exchange.save(update_fields=["request_ids", "question"])
    if ledger := asked.ledger:
        models.Ledger.objects.create(
            exchange=exchange,
            key=ledger.key,
            candidates=list(ledger.candidates),
            injected=list(ledger.injected),
            message_ids=list(ledger.message_ids),
            tokens=ledger.tokens,
        )
    _count(instance=instance, messages=where.ids.count(None), exchanges=1, active=asked.created)
    return exchange


@transaction.atomic
def close_exchange(*, asked: Asked, answered: Answered, count: Count = uncounted, opened: bool = False) -> None:
    """Store what came back. Opens the exchange first where that has not succeeded yet.

    Where it has (`opened`) and the exchange is not there, it was forgotten meanwhile, and nothing is stored.
    """
    if opened and not Exchange.objects.filter(trace_id=asked.trace_id).exists():
        return
    lock_instance(scope=asked.scope)
    exchange = Exchange.objects.filter(trace_id=asked.trace_id).select_related("instance").first()
    if exchange is None and opened:
        return
    exchange = exchange or open_exchange(asked=asked, count=count)
    if exchange.ended not in (Exchange.Ended.OPEN, Exchange.Ended.INTERRUPTED):
        return
    before = Message.objects.filter(pk__in=exchange.request_ids[-1:]).first()  # None also where it was forgotten
    last = before.pk if before else None
    abandoned = before is not None and before.abandoned
    partial = answered.ended != Exchange.Ended.ANSWERED
    answers = [
        unsaved_message(
            exchange.instance,
            exchange,
            turn,
            count,
            created=answered.finished,
            parent_id=last,
            choice=choice,
            partial=partial,
            abandoned=abandoned,
        )
        for choice, turn in enumerate(answered.turns)
    ]
    Message.objects.bulk_create(answers)
    if answers and last is not None:
        _abandon_siblings(parents=[last], keep=[answer.pk for answer in answers])
    usage = answered.usage or {}
    exchange.finished = answered.finished
    exchange.ended = answered.ended
    exchange.status = answered.status
    exchange.finish_reason = answered.finish_reason
    exchange.error = answered.error
    exchange.usage = dict(usage) or None
    exchange.input_tokens = _whole(usage.get("prompt_tokens"))
    exchange.output_tokens = _whole(usage.get("completion_tokens"))
    exchange.cost = answered.cost
    exchange.timings = dict(answered.timings)
    exchange.save()
    _count(instance=exchange.instance, messages=len(answers), exchanges=0, active=answered.finished)


def lock_instance(*, scope: Scope) -> Instance:
    """The scope's instance, made if need be, locked until the transaction ends: a scope is written in turn."""
    find = Instance.objects.of_scope(scope).select_for_update(of=("self",)).select_related("partition")
    if instance := find.first():
        return instance
    partition, _ = Partition.objects.get_or_create(name=scope.partition)
    Instance.objects.get_or_create(partition=partition, name=scope.instance)
    return find.get()


def interrupt_open_exchanges() -> int:
    """Mark what a server that died left open, so that the same question again is a retry. Returns how many."""
    return Exchange.objects.filter(ended=Exchange.Ended.OPEN).update(ended=Exchange.Ended.INTERRUPTED)


def _store_turns(
    instance: Instance,
    exchange: Exchange,
    turns: Sequence[Turn],
    where: Alignment,
    count: Count,
    *,
    alone: bool,
) -> list[int]:
    """Insert the new turns, each growing from the one before it; the ids of all, in order."""
    fresh = iter(reserve_ids(where.ids.count(None)))
    ids = [next(fresh) if pk is None else pk for pk in where.ids]
    last_known = max((i for i, pk in enumerate(where.ids) if pk is not None), default=-1)
    messages = []
    for i, (turn, pk) in enumerate(zip(turns, ids, strict=True)):
        if where.ids[i] is None:
            parent = where.parent if i == last_known + 1 else (ids[i - 1] if i else None)
            messages.append(
                unsaved_message(
                    instance, exchange, turn, count, id=pk, created=exchange.created, parent_id=parent, alone=alone
                )
            )
    Message.objects.bulk_create(messages)
    return ids


def _latest(instance: Instance, **where: str) -> int | None:
    """The instance's latest message."""
    latest = Message.objects.filter(instance=instance, **where).order_by("-created", "-id")
    return latest.values_list("pk", flat=True).first()


def reserve_ids(count: int) -> list[int]:
    """Ids for so many messages, ascending."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT nextval(pg_get_serial_sequence('conversations_message', 'id')) FROM generate_series(1, %s)",
            [count],
        )
        return [row[0] for row in cursor.fetchall()]


# to_tsvector refuses to make more than 1 MB; what stands beyond this many characters is found by vector alone.
INDEXED_CHARACTERS = 60_000


def unsaved_message(instance: Instance, exchange: Exchange | None, turn: Turn, count: Count, **fields: Any) -> Message:
    """A message made ready to be inserted: what is derived from its turn, and `fields` as they are."""
    words = f"{turn.name}: {turn.content}" if turn.name else turn.content
    return Message(
        instance=instance,
        exchange=exchange,
        role=turn.role,
        name=turn.name,
        content=turn.content,
        payload=turn.payload,
        digest=turn.digest,
        tokens=count(turn.content),
        lexemes=SearchVector(Value(words[:INDEXED_CHARACTERS]), config=settings.RESERVOIR_LANGUAGE),
        embed_due=timezone.now() if turn.content.strip() else None,
        **fields,
    )


def _follow(*, path: Sequence[int], keep: Sequence[int], ends: int | None) -> None:
    """The client has gone down this path: it lives again, and what forks off it is abandoned."""
    if not path:
        return
    Message.objects.filter(pk__in=path, alone=True, parent__in=path).update(alone=False)
    revived = Message.objects.filter(pk__in=path, abandoned=True).update(abandoned=False)
    # A fork further up was seen when it came about, unless the client is going back to an abandoned branch.
    near_end = Message.objects.filter(pk=ends).values_list("pk", "parent_id") if ends else ()
    parents = set(path) if revived else {pk for row in near_end for pk in row if pk is not None}
    if ends == keep[-1]:  # asked again: its answers stay until there is another one
        parents.discard(ends)
    _abandon_siblings(parents=[*parents], keep=[*path, *keep])


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
