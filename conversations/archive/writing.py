"""Export: writes each message as an object, in constant memory."""

from __future__ import annotations

import json
import uuid
from collections import OrderedDict
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from typing import NamedTuple

from django.db import connection, transaction
from django.db.models import QuerySet

from conversations.archive.fields import AT_LENGTH, EXCHANGE, LEDGER, MESSAGE, uid, written
from conversations.models import Exchange, Instance, Ledger, Message
from conversations.turns import Json

CHUNK = 200  # messages in memory at once
REMEMBERED = 10_000  # exchanges whose fields are cached for their next message


def export(
    *,
    partition: str | None = None,
    instance: str | None = None,
    since: datetime | None = None,
    embeddings: bool = False,
    exchanges: bool = True,
) -> Generator[Json]:
    """Yield each message as an object, in the order of storing, from one snapshot of the database.

    `since` is inclusive. `embeddings` adds vectors. `exchanges` adds, at the end, exchanges without messages of their
    own, as objects without a role. Iterate on one thread, and close the generator.
    """
    messages = Message.objects.within(partition, instance).between(since)
    bare = Exchange.objects.within(partition, instance).filter(messages=None)
    if since is not None:
        bare = bare.filter(created__gte=since)
    yield from export_rows(messages, bare if exchanges else None, embeddings=embeddings)


def export_rows(
    messages: QuerySet[Message], bare: QuerySet[Exchange] | None = None, *, embeddings: bool = False
) -> Generator[Json]:
    """As export(), of these messages, and of these exchanges that have no messages of their own."""
    with _one_moment():
        rows = messages.select_related("instance__partition").defer("lexemes").order_by("id").iterator(CHUNK)
        known = _Known()
        while chunk := list(islice(rows, CHUNK)):
            long = known.fetch(chunk)
            vectors = _vectors(chunk) if embeddings else {}
            for message in chunk:
                exchange = known.of(message)
                trace_id, fields = exchange or (None, None)
                if exchange is not None:
                    fields = exchange.fields | long.pop(message.exchange_id or 0, {})
                pieces = vectors.get(message.pk, []) if embeddings else None
                yield _message(message, trace_id, fields, pieces)
        if bare is not None:
            for each in bare.select_related("instance__partition", "ledger").order_by("id").iterator(CHUNK):
                short, at_length = _exchange(each)
                where = _where(each.trace_id, each.instance)
                yield where | {"timestamp": _milliseconds(each.created), "exchange": short | at_length}


def as_lines(objects: Iterable[Json]) -> Iterator[str]:
    """JSON Lines in ASCII, so that no character of a message can affect a terminal."""
    for each in objects:
        yield json.dumps(each) + "\n"


def as_array(objects: Iterable[Json]) -> Iterator[str]:
    """One JSON array in ASCII, with one object on each line."""
    before = "[\n"
    for each in objects:
        yield before + json.dumps(each)
        before = ",\n"
    yield "[]\n" if before == "[\n" else "\n]\n"


@contextmanager
def _one_moment() -> Iterator[None]:
    """A transaction that reads one snapshot of the database."""
    outermost = not connection.in_atomic_block
    with transaction.atomic():
        if outermost:
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield


class _Short(NamedTuple):
    trace_id: uuid.UUID
    fields: Json


class _Known:
    """A cache of the short fields of recent exchanges, which appear at each of their messages."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, _Short] = OrderedDict()

    def fetch(self, messages: Sequence[Message]) -> dict[int, Json]:
        """Load the exchanges of these messages. Returns the long fields of those not cached yet."""
        wanted = {message.exchange_id for message in messages if message.exchange_id is not None}
        for known in wanted & self._kept.keys():
            self._kept.move_to_end(known)
        long = {}
        for exchange in Exchange.objects.filter(pk__in=wanted - self._kept.keys()).select_related("ledger"):
            short, long[exchange.pk] = _exchange(exchange)
            self._kept[exchange.pk] = _Short(exchange.trace_id, short)
        while len(self._kept) > REMEMBERED:
            self._kept.popitem(last=False)
        return long

    def of(self, message: Message) -> _Short | None:
        return None if message.exchange_id is None else self._kept[message.exchange_id]


def _exchange(exchange: Exchange) -> tuple[Json, Json]:
    """The fields that appear at every message, and those that appear at the first."""
    short = {name: written(getattr(exchange, name)) for name in EXCHANGE}
    long = {name: short.pop(name) for name in AT_LENGTH} | {"question": exchange.question_id, "ledger": None}
    ledger: Ledger | None = getattr(exchange, "ledger", None)
    if ledger:
        fields = {name: written(getattr(ledger, name)) for name in LEDGER} | {"candidates": ledger.entries}
        bytes_ = {name: bytes(getattr(ledger, name)).hex() for name in ("key", "rendering")}
        long["ledger"] = fields | bytes_
    return short, long


def _message(message: Message, trace_id: uuid.UUID | None, exchange: Json | None, pieces: list[Json] | None) -> Json:
    who = uid(message, trace_id)
    fields = {name: written(getattr(message, name)) for name in MESSAGE}
    said = _where(trace_id or who, message.instance) | {
        "content": fields.pop("content"),
        "role": fields.pop("role"),
        # A message of one piece has its vector in the original Reservoir's field, and only there.
        "embedding": pieces[0].pop("vector") if pieces and len(pieces) == 1 else None,
        "url": None,
        "timestamp": _milliseconds(message.created),
        "id": message.pk,
        "uid": str(who),
        "parent": message.parent_id,
    }
    if pieces is not None:
        fields["embeddings"] = pieces
    return said | fields | {"exchange": exchange}


def _where(trace_id: uuid.UUID, instance: Instance) -> Json:
    return {"trace_id": str(trace_id), "partition": instance.partition.name, "instance": instance.name}


def _vectors(messages: Sequence[Message]) -> dict[int, list[Json]]:
    found: dict[int, list[Json]] = {}
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT v.message_id, m.name, v.start, v."end", v.vector::text FROM conversations_embedding v
               JOIN conversations_embeddingmodel m ON m.id = v.model_id WHERE v.message_id = ANY(%s)
               ORDER BY v.message_id, m.name, v.start""",
            [[message.pk for message in messages]],
        )
        for message_id, model, start, end, vector in cursor.fetchall():
            piece = {"model": model, "start": start, "end": end, "vector": json.loads(vector)}
            found.setdefault(message_id, []).append(piece)
    return found


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
