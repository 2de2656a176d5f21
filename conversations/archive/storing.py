"""Import, second half: stores valid lines, each message once, no matter what was imported before."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

import numpy as np
from django.db import DataError, IntegrityError, transaction
from django.db.models import F, Q

from conversations.archive.fields import uid
from conversations.archive.reading import BadLine, Item, Said
from conversations.ledger_entries import only_considered
from conversations.messages import estimated_tokens, lock_instance, reserve_ids, unsaved_message
from conversations.models import Embedding, EmbeddingModel, Exchange, Instance, Ledger, Message
from conversations.querysets import Scope
from conversations.turns import Count, Json

CHUNK = 200  # lines stored in one transaction


@dataclass(slots=True)
class Imported:
    """Counts of an import: new rows, messages that were already stored (`known`), and refused lines."""

    messages: int = 0
    exchanges: int = 0
    embeddings: int = 0
    known: int = 0
    refused: int = 0


class Importer:
    """Stores items, a few hundred in a transaction.

    `embedding_model` is the name of the model in use; a message without a vector of it goes onto the backlog. `refuse`
    is called with each line that the database rejects. `count` counts a text's tokens if its line does not.
    """

    def __init__(
        self, *, embedding_model: str, refuse: Callable[[BadLine], object], count: Count = estimated_tokens
    ) -> None:
        self.done = Imported()
        self._embedding_model = embedding_model
        self._refuse = refuse
        self._count = count
        self._ids: dict[int, int] = {}  # of messages: in the file -> here
        self._waiting: dict[int, _References] = {}  # by exchange
        self._reached = 0  # the highest message id of the file so far

    def store(self, items: Iterable[Item]) -> Iterator[int]:
        """Store all items. After each chunk, yields the last line that is done."""
        rest = _in_their_instances(items)
        while chunk := list(islice(rest, CHUNK)):
            self._store_chunk(chunk)
            # A request's messages come before it or with it. Those that have not come by now are not in the file.
            self._reached = max(self._reached, *(item.said.source or 0 for item in chunk if item.said), 0)
            self._refer([pk for pk, named in self._waiting.items() if named.last <= self._reached])
            yield chunk[-1].line
        self._refer(list(self._waiting))

    def _store_chunk(self, chunk: Sequence[Item]) -> None:
        try:
            with transaction.atomic():
                done = _Chunk(chunk, self._ids, self._count, self._embedding_model).store()
        except (DataError, IntegrityError, BadLine) as error:
            if len(chunk) > 1:  # store the good lines of the chunk
                for item in chunk:
                    self._store_chunk([item])
                return
            self.done.refused += 1
            bad = error if isinstance(error, BadLine) else BadLine(chunk[0].line, "the database rejects it")
            self._refuse(bad)
            return
        self._ids.update(done.ids)
        self._waiting.update(done.waiting)
        self.done.messages += done.counts.messages
        self.done.exchanges += done.counts.exchanges
        self.done.embeddings += done.counts.embeddings
        self.done.known += done.counts.known

    def _refer(self, exchanges: Sequence[int]) -> None:
        """Write the exchanges' references to messages, now that those have ids here."""
        for start in range(0, len(exchanges), CHUNK):
            chunk = {pk: self._waiting.pop(pk) for pk in exchanges[start : start + CHUNK]}
            named_here = {theirs for named in chunk.values() for theirs in named.messages()} & self._ids.keys()
            ours = [self._ids[theirs] for theirs in named_here]
            where = dict(Message.objects.filter(pk__in=ours).values_list("pk", "instance_id"))
            rows: list[Exchange] = []
            ledgers: list[Ledger] = []
            for row in Exchange.objects.filter(pk__in=chunk).only("instance_id", "request_ids", "question_id"):
                named = chunk[row.pk]
                known = {
                    theirs: pk
                    for theirs in named.messages()
                    if (pk := self._ids.get(theirs)) and where.get(pk) == row.instance_id
                }
                row.request_ids = [known.get(theirs, 0) for theirs in named.request_ids]
                row.question_id = known.get(named.question) if named.question is not None else None
                rows.append(row)
                if named.ledger:
                    ledgers.append(Ledger(exchange=row, instance_id=row.instance_id, **_ledger(named.ledger, known)))
            with transaction.atomic():
                Exchange.objects.bulk_update(rows, ["request_ids", "question"])
                Ledger.objects.bulk_create(ledgers, ignore_conflicts=True)


def _in_their_instances(items: Iterable[Item]) -> Iterator[Item]:
    """The items; a conversation that follows its first message is moved to the instance that has it already."""
    home: Scope | None = None
    for item in items:
        if not item.follows or item.said is None:
            yield item
            continue
        if item.said.parent is None:
            where = Message.objects.filter(origin=item.said.uid)
            found = where.values_list("instance__partition__name", "instance__name").first()
            home = Scope(*found) if found else None
        yield replace(item, scope=home) if home else item


@dataclass(frozen=True, slots=True)
class _References:
    """An exchange's references to messages, by ids of the file; `last` is the highest."""

    request_ids: Sequence[int]
    question: int | None
    ledger: Json | None
    last: int

    def messages(self) -> set[int]:
        named = {*self.request_ids} | ({self.question} if self.question is not None else set())
        if self.ledger:
            named |= {*self.ledger["message_ids"], *(entry["id"] for entry in self.ledger["candidates"])}
        return named


def _ledger(fields: Json, known: Mapping[int, int]) -> Json:
    """A ledger without its entries for missing messages, as if those had been forgotten."""
    whole = all(theirs in known for theirs in fields["message_ids"])
    candidates = [entry | {"id": known[entry["id"]]} for entry in fields["candidates"] if entry["id"] in known]
    shown = [known[theirs] for theirs in fields["message_ids"]] if whole else []
    return fields | {
        "candidates": candidates,
        "considered": only_considered(candidates, shown),
        "message_ids": shown,
        "injected": fields["injected"] if whole else [],
        "rendering": fields["rendering"] if whole else b"",
        "tokens": fields["tokens"] if whole else 0,
    }


class _Done(NamedTuple):
    ids: dict[int, int]
    waiting: dict[int, _References]
    counts: Imported


class _Chunk:
    """Some lines being stored, within a transaction."""

    def __init__(self, items: Sequence[Item], ids: Mapping[int, int], count: Count, embedding_model: str) -> None:
        self._items = items
        self._earlier = ids
        self._count = count
        self._embedding_model = embedding_model
        scopes: list[Scope] = sorted({item.scope for item in items})  # always locked in the same order
        self._instances = {scope: lock_instance(scope=scope) for scope in scopes}

    def store(self) -> _Done:
        """Raises BadLine, or what the database says."""
        exchanges, new_exchanges = self._open_exchanges()
        known = self._known_messages()
        new = {item.said.uid: (item, item.said) for item in self._items if item.said and item.said.uid not in known}
        fresh = dict(zip(new, reserve_ids(len(new)), strict=True))
        pks = known | fresh
        ids = {
            item.said.source: pks[item.said.uid] for item in self._items if item.said and item.said.source is not None
        }
        parents = self._parents([said for _, said in new.values()], ids)
        rows, asked = [], []
        for item, said in new.values():
            exchange = exchanges.get(item.trace_id) if item.exchange is not None else None
            parent = parents.get(said.parent or 0)
            if exchange and said.source is None:  # the original Reservoir's: a question, then its answer
                parent = None if said.turn.role == "user" else exchange.question_id
                if said.turn.role == "user":
                    exchange.question_id = fresh[said.uid]
                    exchange.request_ids = [*exchange.request_ids, fresh[said.uid]]
                    asked.append(exchange)
            rows.append(self._row(item, said, fresh[said.uid], exchange, parent))
        Message.objects.bulk_create(rows)
        Exchange.objects.bulk_update(asked, ["question", "request_ids"])
        embeddings = self._store_vectors([(row, said) for row, (_, said) in zip(rows, new.values(), strict=True)])
        self._count_in(rows, new_exchanges)
        said_here = sum(item.said is not None for item in self._items)
        counts = Imported(len(rows), len(new_exchanges), embeddings, said_here - len(rows))
        return _Done(ids, self._waiting(exchanges), counts)

    def _open_exchanges(self) -> tuple[dict[uuid.UUID, Exchange], list[Exchange]]:
        """The exchanges of these lines by trace id, and a list of the new ones."""
        # Prefer the line with the most about an exchange, then the first.
        telling = sorted(self._items, key=lambda item: (item.references is not None, -item.line))
        wanted = {item.trace_id: item for item in telling if item.exchange is not None}
        found = {row.trace_id: row for row in Exchange.objects.filter(trace_id__in=wanted).defer("parameters")}
        new = []
        for trace_id, item in wanted.items():
            instance = self._instances[item.scope]
            if trace_id not in found:
                found[trace_id] = Exchange(trace_id=trace_id, instance=instance, **(item.exchange or {}))
                if found[trace_id].ended == Exchange.Ended.OPEN:  # no process is answering it
                    found[trace_id].ended = Exchange.Ended.INTERRUPTED
                new.append(found[trace_id])
        for item in self._items:
            if item.exchange is not None and found[item.trace_id].instance_id != self._instances[item.scope].pk:
                raise BadLine(item.line, "its trace_id belongs to an exchange of another scope")
        Exchange.objects.bulk_create(new)
        return found, new

    def _known_messages(self) -> dict[uuid.UUID, int]:
        """The ids of messages that are already stored, whether imported or from a client."""
        said = [item.said for item in self._items if item.said]
        uids = {each.uid for each in said}
        known = dict(Message.objects.filter(origin__in=uids).values_list("origin", "pk"))
        if uids - known.keys():
            traces = {item.trace_id for item in self._items if item.exchange is not None}
            digests = {item.said.turn.digest for item in self._items if item.said and item.exchange is None}
            instances = [instance.pk for instance in self._instances.values()]
            here = Q(exchange__trace_id__in=traces) | Q(exchange=None, instance__in=instances, digest__in=digests)
            rows = Message.objects.filter(here, origin=None).select_related("exchange")
            for row in rows.only("created", "digest", "origin", "exchange__trace_id"):
                who = uid(row, row.exchange.trace_id if row.exchange else None)
                if who in uids:
                    known[who] = row.pk
        return {who: pk for who, pk in known.items() if who is not None}

    def _parents(self, said: Sequence[Said], ids: Mapping[int, int]) -> dict[int, int]:
        """The parents that exist here: id in the file -> id here."""
        theirs = {each.parent for each in said if each.parent is not None}
        here = {number: ids.get(number) or self._earlier.get(number) for number in theirs}
        inside = set(ids.values())
        outside = {pk for pk in here.values() if pk and pk not in inside}
        there = set(Message.objects.filter(pk__in=outside).values_list("pk", flat=True)) if outside else set()
        return {number: pk for number, pk in here.items() if pk and (pk in inside or pk in there)}

    def _row(self, item: Item, said: Said, pk: int, exchange: Exchange | None, parent: int | None) -> Message:
        row = unsaved_message(
            self._instances[item.scope],
            exchange,
            said.turn,
            (lambda text: 0) if "tokens" in said.fields else self._count,
            id=pk,
            origin=said.uid,
            parent_id=parent,
        )
        for name, value in said.fields.items():
            setattr(row, name, value)
        if any(piece.model == self._embedding_model for piece in said.pieces):
            row.embed_due = None
        return row

    def _store_vectors(self, messages: Sequence[tuple[Message, Said]]) -> int:
        """Store vectors of every model, since another one may come into use again."""
        models: dict[str, EmbeddingModel] = {}
        vectors = []
        for row, said in messages:
            for piece in said.pieces:
                if piece.model not in models:
                    models[piece.model], _ = EmbeddingModel.objects.get_or_create(
                        name=piece.model, defaults={"dimensions": len(piece.vector)}
                    )
                model = models[piece.model]
                if model.dimensions != len(piece.vector):
                    raise BadLine(self._line(said), "an embedding differs in length from others of its model")
                vectors.append(
                    Embedding(
                        message=row,
                        instance_id=row.instance_id,
                        model=model,
                        start=piece.start,
                        end=piece.end,
                        vector=np.array(piece.vector, np.float32),
                    )
                )
        Embedding.objects.bulk_create(vectors)
        return len(vectors)

    def _line(self, said: Said) -> int:
        return next(item.line for item in self._items if item.said is said)

    def _count_in(self, rows: Sequence[Message], exchanges: Sequence[Exchange]) -> None:
        for instance in self._instances.values():
            mine = [row.created for row in rows if row.instance_id == instance.pk]
            opened = [exchange for exchange in exchanges if exchange.instance_id == instance.pk]
            active = [*mine, *([instance.last_active] if instance.last_active else [])]
            Instance.objects.filter(pk=instance.pk).update(
                message_count=F("message_count") + len(mine),
                exchange_count=F("exchange_count") + len(opened),
                last_active=max(active, default=None),
                created=min([instance.created, *mine]),
            )

    def _waiting(self, exchanges: Mapping[uuid.UUID, Exchange]) -> dict[int, _References]:
        """The references of exchanges that have none stored yet."""
        ids = {exchange.pk for exchange in exchanges.values()}
        told = set(Ledger.objects.filter(exchange__in=ids).values_list("exchange_id", flat=True))
        waiting = {}
        for item in self._items:
            named = item.references
            if named is None or item.exchange is None:
                continue
            exchange = exchanges[item.trace_id]
            if exchange.request_ids or exchange.pk in told:
                continue
            last = max([*named["request_ids"], (item.said and item.said.source) or 0])
            waiting[exchange.pk] = _References(named["request_ids"], named["question"], item.ledger, last)
        return waiting
