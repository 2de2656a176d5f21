"""The memory API: apps and scripts read the memory, and have parts of it forgotten. Documented at /v1/docs."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime
from typing import Annotated, Any

from django.core.serializers.json import DjangoJSONEncoder
from django.http import HttpRequest, HttpResponseBase
from ninja import Query, Router, Schema
from pydantic import Field

from access.audit import Action
from access.rights import Right
from conversations.turns import NAME_LENGTH
from proxy import runtime
from proxy.authorization import caller, needs, note
from proxy.errors import BadRequest, NotFound
from proxy.handler import RelayedResponse, WholeResponse
from proxy.memory.history import MessageFilter, Page

BY = "api"
NO_MESSAGE = 0  # the id of none

Name = Annotated[
    str, Field(min_length=1, max_length=NAME_LENGTH, pattern=r"^[^\x00]*$")
]  # PostgreSQL's texts hold no NUL
Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]
Limit = Annotated[int, Field(ge=1, le=1000)]

router = Router(tags=["memory"])


class Paging(Schema):
    """Which page: `cursor` is the `next_cursor` of the page before."""

    limit: Limit = 50
    cursor: str | None = None


class Part(Schema):
    """A scope, and a span of time in it. Times without a zone are UTC."""

    partition: Name | None = None
    instance: Name | None = None
    since: datetime | None = Field(None, description="said at or after this time")
    before: datetime | None = Field(None, description="said before this time")


class Filter(Part):
    role: Name | None = None
    search: Text | None = Field(None, description='words that the message must contain; "phrases", -exclusions')


class Forget(Filter):
    """What to forget: the messages that meet all criteria. At least one is needed besides the scope."""

    id: list[int] | None = Field(None, description="ids of messages; may be repeated")
    larger_than: int | None = Field(None, ge=0, lt=2**31, description="messages of more bytes than this")
    dry_run: bool = Field(False, description="only count what would be forgotten")


class PartitionRow(Schema):
    name: str
    keep_days: int | None = Field(description="older messages are forgotten; null keeps all")
    instance_count: int
    messages: int
    exchanges: int


class InstanceRow(Schema):
    name: str
    message_count: int
    exchange_count: int
    last_active: datetime | None


class MessageRow(Schema):
    id: int
    partition: str
    instance: str
    trace_id: uuid.UUID | None
    created: datetime
    role: str
    name: str | None
    content: str
    tokens: int
    partial: bool = Field(description="the answer was cut short")
    abandoned: bool = Field(description="on a branch that the client has abandoned")
    similarity: float | None = None


class MessageWhole(MessageRow):
    payload: dict[str, Any] = Field(description="as the API sent it")
    parent: int | None = Field(description="id of the turn before it")


class PartitionPage(Schema):
    data: list[PartitionRow]
    next_cursor: str | None = Field(description="for the next page; null on the last")


class InstancePage(Schema):
    data: list[InstanceRow]
    next_cursor: str | None


class MessagePage(Schema):
    data: list[MessageRow]
    next_cursor: str | None


class Candidates(Schema):
    candidates: list[dict[str, Any]] = Field(
        description="each message that was added and the nearest that were not, and why"
    )
    injected: list[str] = Field(description="the added messages, as JSON texts; a text of its own is a part of one")
    exact: bool = Field(description="whether these are the texts as sent; false if that version worded them otherwise")
    shown: list[int]
    tokens: int


class ExchangeWhole(Schema):
    trace_id: uuid.UUID
    partition: str
    instance: str
    created: datetime
    finished: datetime | None
    model: str
    provider: str
    streamed: bool
    ended: str
    status: int | None
    finish_reason: str
    error: str
    usage: dict[str, Any] | None
    input_tokens: int | None
    output_tokens: int | None
    cost: str | None = Field(description="US dollars")
    timings: dict[str, float] = Field(description="milliseconds of each phase")
    memory: str
    parameters: str = Field(description="the request without its messages, as sent")
    prompts: list[dict[str, Any]]
    request: list[dict[str, Any]] = Field(
        description="the messages of the request; role null: forgotten, left_out: the window had no room"
    )
    messages: list[MessageRow] = Field(description="the messages that it added to the memory")
    ledger: Candidates | None


class Gone(Schema):
    """Rows that were or would be deleted. `bytes` counts texts and vectors, `cleared` exchanges without texts."""

    dry_run: bool
    messages: int
    embeddings: int
    exchanges: int
    ledgers: int
    cleared: int
    instances: int
    partitions: int
    bytes: int


@router.get("/partitions", response=PartitionPage, auth=needs(Right.READ))
async def partitions(request: HttpRequest, page: Query[Paging]) -> HttpResponseBase:
    """Partitions, ordered by name."""
    _only(request, Paging)
    history = runtime.current().history
    return await _page(await history.partitions(caller(request).reach, limit=page.limit, cursor=page.cursor))


@router.delete("/partitions", response=Gone, auth=needs(Right.FORGET))
async def forget_partition(request: HttpRequest, partition: Name, dry_run: bool = False) -> HttpResponseBase:
    """Forget a partition, including its name."""
    _only(request, "partition", "dry_run")
    return await _forget(request, {"partition": partition, "whole": True}, dry_run)


@router.get("/instances", response=InstancePage, auth=needs(Right.READ))
async def instances(request: HttpRequest, partition: Name, page: Query[Paging]) -> HttpResponseBase:
    """The instances of a partition, ordered by name."""
    _only(request, Paging, "partition")
    who = caller(request)
    who.require_part(partition, None, whole=False)
    history = runtime.current().history
    return await _page(await history.instances(partition, who.reach, limit=page.limit, cursor=page.cursor))


@router.delete("/instances", response=Gone, auth=needs(Right.FORGET))
async def forget_instance(
    request: HttpRequest, partition: Name, instance: Name, dry_run: bool = False
) -> HttpResponseBase:
    """Forget an instance, including its name."""
    _only(request, "partition", "instance", "dry_run")
    return await _forget(request, {"partition": partition, "instance": instance, "whole": True}, dry_run)


@router.get("/messages", response=MessagePage, auth=needs(Right.READ))
async def messages(request: HttpRequest, which: Query[Filter], page: Query[Paging]) -> HttpResponseBase:
    """Messages, latest first; `search` selects those that contain the words."""
    _only(request, Filter, Paging)
    history = runtime.current().history
    wanted, who = MessageFilter(**_criteria(which)), caller(request)
    who.require_part(wanted.partition, wanted.instance, whole=False)
    return await _page(await history.messages(wanted, who.reach, limit=page.limit, cursor=page.cursor))


@router.get("/nearest", response=MessagePage, auth=needs(Right.READ))
async def nearest(
    request: HttpRequest,
    text: Annotated[Text, Field(min_length=1)],
    partition: Name | None = None,
    instance: Name | None = None,
    limit: Limit = 10,
) -> HttpResponseBase:
    """Messages similar in meaning to a text, most similar first, each with its `similarity` (cosine). One page."""
    _only(request, "text", "partition", "instance", "limit")
    history = runtime.current().history
    who = caller(request)
    who.require_part(partition, instance, whole=False)
    found = await history.nearest(text, who.reach, partition=partition, instance=instance, limit=limit)
    return await _page(Page(found, None))


@router.delete("/messages", response=Gone, auth=needs(Right.FORGET))
async def forget_messages(request: HttpRequest, what: Query[Forget]) -> HttpResponseBase:
    """Forget the messages of a span of time, with certain words, above a size, or of a role."""
    _only(request, Forget)
    criteria = _criteria(what)
    ids, dry_run = criteria.pop("id"), criteria.pop("dry_run")
    return await _forget(request, criteria | ({} if ids is None else {"ids": tuple(ids)}), dry_run)


@router.get("/messages/{int:message_id}", response=MessageWhole, auth=needs(Right.READ))
async def message(request: HttpRequest, message_id: int) -> HttpResponseBase:
    """A message as the API sent it."""
    _only(request)
    row = await runtime.current().history.message(message_id, caller(request).reach)
    if row is None:
        raise NotFound("This message does not exist.", param="message_id")
    return await _json(row)


@router.delete("/messages/{int:message_id}", response=Gone, auth=needs(Right.FORGET))
async def forget_message(request: HttpRequest, message_id: int, dry_run: bool = False) -> HttpResponseBase:
    """Forget one message."""
    _only(request, "dry_run")
    return await _forget(request, {"ids": (message_id,)}, dry_run)


@router.get("/exchanges/{uuid:trace_id}", response=ExchangeWhole, auth=needs(Right.READ))
async def exchange(request: HttpRequest, trace_id: uuid.UUID) -> HttpResponseBase:
    """The request, the answer, and the ledger: which messages were recalled, and why."""
    _only(request)
    row = await runtime.current().history.exchange(trace_id, caller(request).reach)
    if row is None:
        raise NotFound("No exchange has this trace id.", param="trace_id")
    return await _json(row)


@router.get("/export", auth=needs(Right.EXPORT))
async def export(
    request: HttpRequest,
    partition: Name | None = None,
    instance: Name | None = None,
    since: datetime | None = None,
    embeddings: bool = False,
) -> HttpResponseBase:
    """A scope, or all scopes, as JSON Lines that `manage.py import` reads; streamed."""
    _only(request, "partition", "instance", "since", "embeddings")
    caller(request).require_part(partition, instance, whole=True)
    history = runtime.current().history
    note(caller(request), Action.EXPORTED, partition, instance)
    chunks = await history.export(partition=partition, instance=instance, since=_aware(since), embeddings=embeddings)
    disposition = (b"content-disposition", b'attachment; filename="reservoir.jsonl"')
    return RelayedResponse(200, [(b"content-type", b"application/jsonl"), disposition], chunks)


def at_most(count: int) -> int:
    """The count of the original's commands, checked. Raises BadRequest."""
    if not 0 < count <= 1000:
        raise BadRequest("Ask for 1 to 1000 messages.", code="invalid_parameter", param="count")
    return count


async def original_form(rows: list[dict[str, Any]]) -> HttpResponseBase:
    """The original Reservoir's format: a list of `{role, content}`."""
    return await _json([{"role": row["role"], "content": row["content"]} for row in rows])


def _only(request: HttpRequest, *known: type[Schema] | str) -> None:
    """Raises BadRequest for an unknown parameter: a misspelt dry_run must not forget anything."""
    names = [name for one in known for name in ([one] if isinstance(one, str) else one.model_fields)]
    for name in request.GET:
        if name not in names:
            allowed = f"use {', '.join(names)}" if names else "it takes none"
            refusal = f"This route has no parameter {name[:50]!r}: {allowed}."
            raise BadRequest(refusal, code="unknown_parameter", param=name[:50])


async def _forget(request: HttpRequest, criteria: dict[str, Any], dry_run: bool) -> HttpResponseBase:
    """Ids that the caller does not reach count as ids that do not exist. Raises Forbidden for any other selection."""
    who, history = caller(request), runtime.current().history
    if criteria.get("partition") is None and criteria.get("ids") and not who.reach.is_everything:
        criteria |= {"ids": tuple(await history.reached_ids(criteria["ids"], who.reach)) or (NO_MESSAGE,)}
    else:
        who.require_part(criteria.get("partition"), criteria.get("instance"), whole=True)
    gone = await history.forget(criteria, by=f"{BY}, key {who.name}" if who.key_id else BY, dry_run=dry_run)
    if not dry_run:
        note(who, Action.FORGOTTEN, criteria.get("partition"), criteria.get("instance"), messages=gone["messages"])
    return await _json({"dry_run": dry_run} | gone)


def _criteria(given: Part) -> dict[str, Any]:
    return given.dict() | {"since": _aware(given.since), "before": _aware(given.before)}


def _aware(moment: datetime | None) -> datetime | None:
    """The moment in UTC. Raises BadRequest for one that lies outside of the years 1 to 9999 there."""
    if moment is None or moment.tzinfo is None:
        return moment and moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise BadRequest("A time must lie in the years 1 to 9999.", code="invalid_parameter") from None


async def _page(page: Page) -> HttpResponseBase:
    return await _json({"data": page.rows, "next_cursor": page.cursor})


async def _json(value: Any) -> HttpResponseBase:
    """Encoded on a thread, in small steps: a page may hold a thousand long texts."""
    body = await asyncio.to_thread(lambda: b"".join(part.encode() for part in DjangoJSONEncoder().iterencode(value)))
    return WholeResponse(200, [(b"content-type", b"application/json")], body)
