"""Reads for the commands and the memory API: pages, searches by words or meaning, and totals."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, NamedTuple

from django.db import connection
from django.db.models import Avg, Count, FloatField, Q, QuerySet, Sum
from django.db.models.fields.json import KT
from django.db.models.functions import Cast

from conversations.embedders.base import Embedder
from conversations.models import Embedding, Exchange, Instance, Ledger, Message, Partition
from conversations.querysets import MessageQuerySet, named
from conversations.reach import ALL, Reach
from conversations.turns import Json


class BadCursor(ValueError):
    """A cursor that did not come from a page."""


class Page(NamedTuple):
    """Some rows, and the cursor of the next page; None on the last page."""

    rows: list[Json]
    cursor: str | None


# --- messages -----------------------------------------------------------------------------------------


def latest(count: int, *, partition: str | None = None, instance: str | None = None) -> list[Message]:
    """The latest `count` messages, oldest first."""
    rows = Message.objects.within(partition, instance).select_related("instance__partition", "exchange")
    return [*rows.defer("lexemes").recent(count)][::-1]


def search(
    term: str,
    *,
    limit: int,
    embedder: Callable[[], Embedder] | None = None,
    partition: str | None = None,
    instance: str | None = None,
    reach: Reach = ALL,
) -> list[Message]:
    """Messages that contain the words of a term, latest first; with an embedder, the nearest by meaning, best first.

    The nearest have a `distance` (cosine, 0 to 2). Raises EmbedderError.
    """
    within = Message.objects.within(partition, instance).reached(reach)
    rows = within.select_related("instance__partition", "exchange")
    if embedder is None:
        return list(rows.matching(term).defer("lexemes").recent(limit))
    if not term.strip():
        return []
    used = embedder()
    near = within.nearest(used.embed([term])[0].tolist(), used.name)
    distances: dict[int, float] = {row.pk: vars(row)["distance"] for row in near.only("pk")[:limit]}
    by_id = rows.defer("lexemes").in_bulk(list(distances))
    for pk, row in by_id.items():
        row.distance = distances[pk]  # type: ignore[attr-defined]
    return [by_id[pk] for pk in distances if pk in by_id]


def as_json(row: Message) -> Json:
    """A message as clients see it. Select its instance, partition and exchange along with it."""
    told = {
        "id": row.pk,
        "partition": row.instance.partition.name,
        "instance": row.instance.name,
        "trace_id": str(row.exchange.trace_id) if row.exchange else None,
        "created": row.created.isoformat(),
        "role": row.role,
        "name": row.name or None,
        "content": row.content,
        "tokens": row.tokens,
        "partial": row.partial,
        "abandoned": row.abandoned,
    }
    distance = getattr(row, "distance", None)
    return told if distance is None else told | {"similarity": round(1 - distance, 4)}


def message(pk: int, reach: Reach = ALL) -> Json | None:
    """A message with its JSON as the API sent it, or None."""
    rows = Message.objects.reached(reach).select_related("instance__partition", "exchange")
    row = rows.defer("lexemes").filter(pk=pk).first()
    if row is None:
        return None
    return as_json(row) | {"payload": json.loads(row.payload), "parent": row.parent_id}


def messages(rows: MessageQuerySet, *, limit: int, cursor: str | None) -> Page:
    """A page of messages, latest first. Raises BadCursor."""
    if cursor:
        created, pk = _read_cursor(cursor, datetime.fromisoformat, _row_id)
        rows = rows.filter(Q(created__lt=created) | Q(created=created, pk__lt=pk)).filter(created__lte=created)
    chosen = list(rows.select_related("instance__partition", "exchange").defer("lexemes").recent(limit + 1))
    last = chosen[limit - 1] if len(chosen) > limit else None
    following = _cursor(last.created.isoformat(), last.pk) if last else None
    return Page([as_json(row) for row in chosen[:limit]], following)


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageFilter:
    """Which messages to list. Criteria narrow each other; None is no criterion."""

    partition: str | None = None
    instance: str | None = None
    since: datetime | None = None  # included
    before: datetime | None = None  # not included
    role: str | None = None
    search: str | None = None  # words that all stand in it; "phrases", -exclusions


def reached_ids(ids: Sequence[int], reach: Reach) -> list[int]:
    """Those of some ids of messages that a caller reaches."""
    return list(Message.objects.reached(reach).filter(pk__in=ids).order_by("pk").values_list("pk", flat=True))


def filtered_messages(wanted: MessageFilter, *, limit: int, cursor: str | None, reach: Reach = ALL) -> Page:
    """A page of the messages that a filter names, latest first. Raises BadCursor and NoScope."""
    rows = Message.objects.within(wanted.partition, wanted.instance).reached(reach)
    rows = rows.between(wanted.since, wanted.before)
    if wanted.role is not None:
        rows = rows.filter(role=wanted.role)
    if wanted.search is not None:
        rows = rows.matching(wanted.search)
    return messages(rows, limit=limit, cursor=cursor)


def read_one_message() -> None:
    """Read any message, to see that the tables can be read. Raises ProgrammingError when they do not exist."""
    Message.objects.values("id").first()


# --- partitions, instances, exchanges -----------------------------------------------------------------


def partitions(*, limit: int, cursor: str | None, reach: Reach = ALL) -> Page:
    """A page of partitions by name, with their totals. Raises BadCursor."""
    counted = named("instances__name", reach.instances)
    rows = Partition.objects.without_scratch().filter(pk__in=Partition.objects.reached(reach).order_by().values("pk"))
    if reach.is_everything:
        rows = Partition.objects.without_scratch()
    rows = rows.annotate(
        instance_count=Count("instances", filter=counted),
        messages=Sum("instances__message_count", filter=counted, default=0),
        exchanges=Sum("instances__exchange_count", filter=counted, default=0),
    )
    values = ("name", "keep_days", "instance_count", "messages", "exchanges")
    return _by_name(rows.order_by("name").values(*values), limit, cursor)


def instances(partition: str, *, limit: int, cursor: str | None, reach: Reach = ALL) -> Page:
    """A page of a partition's instances by name. Raises BadCursor."""
    rows = Instance.objects.reached(reach).filter(partition__name=partition).order_by("name")
    return _by_name(rows.values("name", "message_count", "exchange_count", "last_active"), limit, cursor)


def exchange(trace_id: uuid.UUID, added: Callable[[Ledger], Json], reach: Reach = ALL) -> Json | None:
    """An exchange with its messages and its ledger, or None. `added` tells what was added to its request."""
    rows = Exchange.objects.reached(reach).select_related("instance__partition", "ledger")
    row = rows.filter(trace_id=trace_id).first()
    if row is None:
        return None
    names = (
        "created",
        "finished",
        "dialect",
        "model",
        "provider",
        "streamed",
        "ended",
        "status",
        "finish_reason",
        "error",
    )
    numbers = ("usage", "input_tokens", "output_tokens", "timings", "memory")
    told: Json = {name: getattr(row, name) for name in (*names, *numbers)}
    asked = Message.objects.filter(instance_id=row.instance_id).in_bulk(row.request_ids)
    related = Message.objects.select_related("instance__partition", "exchange").defer("lexemes")
    return told | {
        "trace_id": str(row.trace_id),
        "partition": row.instance.partition.name,
        "instance": row.instance.name,
        "cost": None if row.cost is None else str(row.cost),
        "parameters": row.parameters,
        "prompts": [{"place": place, "message": text} for place, text in row.prompts],
        "request": [
            {"id": pk, "left_out": at in row.left_out}
            | ({"role": asked[pk].role, "content": asked[pk].content} if pk in asked else {"role": None})
            for at, pk in enumerate(row.request_ids)
        ],
        "messages": [as_json(each) for each in related.filter(exchange=row).order_by("id")],
        "ledger": _ledger(row.ledger, added) if hasattr(row, "ledger") else None,
    }


def _ledger(row: Ledger, added: Callable[[Ledger], Json]) -> Json:
    return {"candidates": row.entries, "shown": row.message_ids, "tokens": row.tokens} | added(row)


# --- totals -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Figures:
    """Totals. `bytes` is the database's size on disk, `cost` is in US dollars, `total_ms` is an average."""

    partitions: int
    instances: int
    messages: int
    embeddings: int
    waiting: int
    exchanges: int
    failed: int
    input_tokens: int
    output_tokens: int
    cost: float
    total_ms: float | None
    remembered: int
    bytes: int
    first: datetime | None
    last: datetime | None

    def as_json(self) -> Json:
        told = asdict(self)
        return told | {key: told[key] and told[key].isoformat() for key in ("first", "last")}


def figures() -> Figures:
    """Totals over everything but scratch partitions. Reads each exchange once."""
    counted = Instance.objects.without_scratch().aggregate(
        partitions=Count("partition", distinct=True),
        instances=Count("pk"),
        messages=Sum("message_count", default=0),
        exchanges=Sum("exchange_count", default=0),
    )
    summed = Exchange.objects.within().aggregate(
        input_tokens=Sum("input_tokens", default=0),
        output_tokens=Sum("output_tokens", default=0),
        cost=Sum("cost"),
        failed=Count("pk", filter=Q(ended__in=(Exchange.Ended.FAILED, Exchange.Ended.CUT))),
        remembered=Count("pk", filter=Q(memories__gt=0)),
        total_ms=Avg(Cast(KT("timings__total"), FloatField())),
    )
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_database_size(current_database())")
        (size,) = cursor.fetchone() or (0,)
    moments: QuerySet[Message, datetime] = (
        Message.objects.within().order_by("created").values_list("created", flat=True)
    )
    return Figures(
        **counted,
        **{key: value for key, value in summed.items() if key not in ("cost", "total_ms")},
        cost=float(summed["cost"] or 0),
        total_ms=None if summed["total_ms"] is None else round(summed["total_ms"], 1),
        embeddings=Embedding.objects.without_scratch().count(),
        waiting=Message.objects.within().backlog().count(),
        bytes=size,
        first=moments.first(),
        last=moments.reverse().first(),
    )


# --- cursors ------------------------------------------------------------------------------------------


def _by_name(rows: Any, limit: int, cursor: str | None) -> Page:
    if cursor:
        (name,) = _read_cursor(cursor, _name)
        rows = rows.filter(name__gt=name)
    chosen = list(rows[: limit + 1])
    more = len(chosen) > limit
    return Page(chosen[:limit], _cursor(chosen[limit - 1]["name"]) if more else None)


def _name(value: Any) -> str:
    """A name that PostgreSQL can compare. Raises ValueError."""
    name = str(value)
    if "\0" in name:
        raise ValueError(name)
    name.encode()
    return name


def _row_id(value: Any) -> int:
    """An id that fits PostgreSQL's bigint. Raises ValueError."""
    number = int(value)
    if not 0 <= number < 2**63:
        raise ValueError(number)
    return number


def _cursor(*values: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode().rstrip("=")


def _read_cursor(cursor: str, *kinds: Callable[[Any], Any]) -> list[Any]:
    try:
        given = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        return [kind(value) for kind, value in zip(kinds, given, strict=True)]
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise BadCursor("The cursor did not come from a page.") from None
