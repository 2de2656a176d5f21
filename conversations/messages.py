"""Adds messages to a scope: its lock, the ids, the rows, the counters. Functions are keyword-only and atomic."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, overload

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F, Func, Value
from django.db.models.functions import Greatest
from django.utils import timezone

from conversations import scopes
from conversations.lexemes import asks, computed_vector, search_vector
from conversations.models import Exchange, Instance, Message, Partition
from conversations.querysets import Scope
from conversations.recall.wishes import is_wish
from conversations.turns import Count, Turn

# Counting the tokens of 32 MB can take half a minute, too long for a transaction. Longer texts are estimated.
COUNTED_CHARACTERS = 2**20


def estimated_tokens(text: str) -> int:
    """An estimate without a tokenizer: English has about four bytes a token."""
    return -(-len(text.encode(errors="replace")) // 4)


def tokens_of(content: str, count: Count) -> int:
    """The tokens of a message's text by `count`; of a very long one, an estimate."""
    return count(content) if len(content) <= COUNTED_CHARACTERS else estimated_tokens(content)


def wishes(turn: Turn) -> bool:
    """Whether a turn is a standing wish of the user."""
    return turn.role == "user" and is_wish(turn.content, settings.RESERVOIR_LANGUAGE)


def whole_count(value: Any) -> int | None:
    """A provider's token count, or None if the value is not a count: it comes from outside."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31 else None


@transaction.atomic
def add_messages(
    *, scope: Scope, messages: Sequence[tuple[Turn, datetime]], count: Count = estimated_tokens, embed: bool = True
) -> list[int]:
    """Store a conversation without an exchange: its turns with their times, oldest first. Returns the ids in order.

    Each turn grows from the one before it. `embed` puts them onto the backlog; without it, the caller makes their
    vectors. `count` counts a text's tokens.
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
        add_to_counters(
            instance=instance, messages=len(messages), exchanges=0, active=max(created for _, created in messages)
        )
    return ids


@overload
def lock_instance(*, scope: Scope) -> Instance: ...
@overload
def lock_instance(*, scope: Scope, make: bool) -> Instance | None: ...
def lock_instance(*, scope: Scope, make: bool = True) -> Instance | None:
    """The scope's instance, locked until the transaction ends, so that writers of a scope take turns.

    A missing instance is created, or without `make`, None is returned. The lock does not block foreign keys to it.
    """
    if make and scopes.is_unknown(scope):
        _begin(scope)
    if (instance := _lock(scope)) or not make:
        return instance
    _begin(scope)
    return _lock(scope)


def _begin(scope: Scope) -> None:
    partition, _ = Partition.objects.get_or_create(name=scope.partition)
    if not scopes.is_distributed():
        Instance.objects.get_or_create(partition=partition, name=scope.instance)
        return
    scopes.begin_alone(scope)
    if scopes.number_of(scope) is None:
        Instance.objects.create(partition=partition, name=scope.instance)


def _lock(scope: Scope) -> Instance | None:
    find = Instance.objects.of_scope(scope).select_for_update(of=("self",), no_key=True)
    if (instance := find.first()) is None:
        scopes.look_up_again(scope)
    return instance


def unsaved_message(instance: Instance, exchange: Exchange | None, turn: Turn, count: Count, **fields: Any) -> Message:
    """A message ready to be inserted, with the columns derived from its turn. `fields` are set as given."""
    return Message(
        instance=instance,
        exchange=exchange,
        role=turn.role,
        name=turn.name,
        content=turn.content,
        payload=turn.payload,
        digest=turn.digest,
        tokens=tokens_of(turn.content, count),
        asks=asks(turn.content),
        wish=wishes(turn),
        lexemes=stored_lexemes(instance.pk, turn.name, turn.content),
        embed_due=timezone.now() if turn.content.strip() else None,
        **fields,
    )


def stored_lexemes(instance_id: int, name: str, content: str) -> Func:
    """The expression to store of what is searched by words."""
    make = computed_vector if scopes.is_distributed() else search_vector
    return make(instance_id, name, content)


def reserve_ids(count: int) -> list[int]:
    """Ids for `count` new messages, ascending."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT nextval(pg_get_serial_sequence('conversations_message', 'id')) FROM generate_series(1, %s)",
            [count],
        )
        return [row[0] for row in cursor.fetchall()]


def add_to_counters(*, instance: Instance, messages: int, exchanges: int, active: datetime) -> None:
    Instance.objects.filter(pk=instance.pk).update(
        message_count=F("message_count") + messages,
        exchange_count=F("exchange_count") + exchanges,
        last_active=Greatest("last_active", Value(active)),
    )
