"""One exchange as memory sees it: what is recalled for it, and how its two halves are stored."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cache, partial
from typing import Any

from django.conf import settings
from django.utils import timezone

from conversations import actions, policy
from conversations.backlog import save_computed_vectors, single_piece
from conversations.exchange_sql import QuestionVector
from conversations.nearest import vector_literal
from conversations.querysets import Scope
from conversations.repetition import set_aside
from conversations.servers import this_process
from conversations.states import Ended, MemoryState
from conversations.turns import Turn, digest, plain_text, storable, storable_json
from proxy import metrics, tracing
from proxy.memory.ledger import explained, kept
from proxy.memory.recollection import CANDIDATES, RecallRequest, Recollection, question_key
from proxy.memory.service import STORE_SECONDS, MemoryService, StoredIn
from proxy.prompt.chat import Chat, ChatMessage, Json, Reply
from proxy.prompt.counting import Count
from proxy.prompt.enrichment import without_block
from proxy.prompt.injection import Injection
from proxy.providers.registry import Target
from proxy.rules.rules_file import REPEATED
from proxy.spool.record import Entry

__all__ = ["Cost", "Ended", "MemoryOptions", "RememberedExchange", "Request", "Result"]

Cost = Callable[[Mapping[str, Any]], Decimal | None]  # the provider's `usage` -> US dollars


@dataclass(frozen=True, slots=True)
class MemoryOptions:
    """What a client wants of its memory."""

    recall: bool = True
    store: bool = True
    candidates: int = CANDIDATES  # how many messages to rank


@dataclass(frozen=True, slots=True)
class Request:
    """A chat, whose memory it uses, and where it goes. `count` gives the tokens of a text for the target's model."""

    trace_id: uuid.UUID
    scope: Scope
    options: MemoryOptions
    chat: Chat
    target: Target
    count: Count
    key_id: str = ""  # the public id of the access key
    parent: str = ""  # the client's traceparent (W3C Trace Context)


@dataclass(frozen=True, slots=True)
class Result:
    """How an exchange ended, and the reply as far as it came."""

    ended: Ended
    status: int | None = None
    reply: Reply = field(default_factory=Reply)
    error: str = ""


class RememberedExchange:
    """Recalls for a request, stores the request while the provider is working, and the answer before its last byte."""

    def __init__(self, service: MemoryService, request: Request) -> None:
        self._service = service
        self._request = request
        self._recalled = Recollection()
        self._asked = actions.Asked(
            trace_id=request.trace_id,
            scope=request.scope,
            created=timezone.now(),
            model=storable(request.target.model),
            provider=request.target.provider.name,
            streamed=request.chat.stream,
            dialect=request.chat.dialect,
            follows=storable(request.chat.follows),
            key_id=request.key_id,
            served_by=this_process,
        )
        self._opening: asyncio.Future[StoredIn] | None = None
        self._built = self._finished = False
        self._shown = self._tokens = 0
        self._rule = ""

    async def decide(self, rule: str, *, polls: bool) -> None:
        """Apply the rule that holds for the request, if any: no recall, and no messages are stored.

        `polls`: a text that is sent again and again has a rule of its own. Raises Overloaded if too many requests wait
        for memory already.
        """
        request = self._request
        if not (request.options.recall or request.options.store):
            return
        self._service.admit()
        if polls and not rule and await self._service.is_poll(request.chat, request.scope):
            rule = REPEATED
        if rule and await self._service.rules_act(request.scope):
            self._rule = rule
            self._request = replace(request, options=replace(request.options, recall=False))

    async def recall(self) -> Recollection:
        """The memories for the request; none if the client wants none."""
        request = self._request
        if request.options.recall:
            wanted = RecallRequest(request.scope, request.chat, request.count, request.options.candidates)
            self._recalled = await self._service.recall(wanted, request.trace_id)
        return self._recalled

    def remember_question(self, injection: Injection) -> None:
        """Start to store the request. Does not wait."""
        self._shown, self._tokens = len(injection.shown), injection.tokens
        if self._request.options.store:
            ask = partial(self._ask, injection)
            # A request that has waited for the database once, in recall, waits no longer than that again.
            seconds = settings.RESERVOIR_RECALL_DEADLINE_MS / 1000 if self._recalled.late else STORE_SECONDS
            storing = self._store(lambda: self._open(ask()), lambda: Entry(ask()), seconds=min(seconds, STORE_SECONDS))
            self._opening = self._service.track(asyncio.ensure_future(storing))

    @property
    def state(self) -> MemoryState:
        """DEGRADED when recall was late or failed."""
        return self._recalled.state

    def explain(self, injection: Injection) -> list[Json]:
        """The ledger of this request, with the messages that it is about."""
        return explained(self._recalled, injection, self._request.count)

    async def headers(self, timing: str) -> list[tuple[bytes, bytes]]:
        """The headers that tell the client about its memory. Waits for the question to be stored, within limits."""
        state = self.state
        if self._opening:
            # Slow is not degraded: what waits will be stored, in the database or the spool.
            await asyncio.wait([self._opening], timeout=settings.RESERVOIR_RECALL_DEADLINE_MS / 1000)
            if self._opening.done() and self._opening.result() is not StoredIn.DATABASE:
                state = MemoryState.DEGRADED
        told = {
            "x-reservoir-trace-id": str(self._request.trace_id),
            "x-reservoir-memory": state.value,
            "x-reservoir-memories": str(self._shown),
            "x-reservoir-memory-tokens": str(self._tokens),
            "server-timing": timing,
        }
        return [(name.encode(), value.encode()) for name, value in told.items()]

    async def remember_answer(
        self, result: Result, *, timings: Callable[[], dict[str, float]], cost: Cost, charge: Callable[[Result], None]
    ) -> None:
        """Store the answer and wait for the commit. Continues if the waiting task is cancelled.

        Does nothing on a second call; if the client does not want the exchange stored, it is charged and counted only.
        """
        if self._finished:
            return
        self._finished = True
        if result.ended is Ended.OPEN:  # the provider goes on in the background
            if self._opening:
                noting = self._note_pending(self._opening, storable(result.reply.id))
                await asyncio.shield(self._service.track(asyncio.ensure_future(noting)))
            return
        found = answered(result, timings(), cost)
        charge(result)
        target, scope = self._request.target, self._request.scope
        ended = as_metrics(found, target.provider.name, target.model, scope, memories=self._shown)
        metrics.exchange_ended(ended)
        tracing.exchange_ended(ended, trace_id=str(self._request.trace_id), parent=self._request.parent)
        if self._opening is None:
            return
        closing = self._close(self._opening, found, () if self._rule else result.reply.messages)
        await asyncio.shield(self._service.track(asyncio.ensure_future(closing)))

    async def _note_pending(self, opening: asyncio.Future[StoredIn], response_id: str) -> None:
        if await opening is StoredIn.DATABASE:
            await self._service.note_pending(self._request.scope, self._request.trace_id, response_id)

    async def _close(
        self, opening: asyncio.Future[StoredIn], found: actions.Answered, messages: Sequence[ChatMessage]
    ) -> None:
        question = await opening
        opened = question is not StoredIn.NEITHER
        # A question that is stored already is not written to the spool again.
        bare = replace(self._asked, turns=(), left_out=(), prompts=(), parameters="", ledger=None)
        asked = bare if opened else self._asked

        @cache
        def whole() -> actions.Answered:
            """With its turns. Parsing a long answer takes half a second, so it happens off the event loop."""
            return replace(found, turns=answer_turns(messages))

        def work() -> None:
            count = self._request.count
            if opened or policy.is_stored(self._request.scope.partition):
                actions.close_exchange(asked=self._asked, answered=whole(), count=count, opened=opened)

        await self._store(work, lambda: Entry(asked, whole(), opened), spooled=question is StoredIn.SPOOL)
        self._service.wake()

    async def _store(
        self,
        work: Callable[[], Any],
        entry: Callable[[], Entry],
        *,
        seconds: float = STORE_SECONDS,
        spooled: bool = False,
    ) -> StoredIn:
        scope, trace_id = self._request.scope, self._request.trace_id
        return await self._service.store(work, entry, scope=scope, trace_id=trace_id, seconds=seconds, spooled=spooled)

    def _ledger(self, injection: Injection) -> actions.Ledger:
        request = self._request
        return kept(self._recalled, injection, key=question_key(request.chat), count=request.count)

    def _ask(self, injection: Injection) -> actions.Asked:
        """The question as it is stored. Slow for a long history, so it happens off the event loop."""
        if self._built:
            return self._asked
        if self._rule:
            self._asked = replace(self._asked, memory=self.state, rule=self._rule)
            self._built = True
            return self._asked
        chat = self._request.chat
        turns = [i for i, m in enumerate(chat.messages) if not m.is_system]
        self._asked = replace(
            self._asked,
            memory=self.state,
            turns=tuple(_turn(chat.messages[i]) for i in turns),
            left_out=tuple(at for at, i in enumerate(turns) if i in injection.cut),
            prompts=tuple((i, m.raw) for i, m in enumerate(chat.messages) if m.is_system),
            parameters=chat.without_messages(),
            ledger=self._ledger(injection) if self._request.options.recall else None,
        )
        self._built = True
        return self._asked

    def _open(self, asked: actions.Asked) -> None:
        scope, chat = self._request.scope, self._request.chat
        if not policy.is_stored(scope.partition):
            return
        if self._rule == REPEATED:
            set_aside(scope=scope, digest=digest(chat.messages[chat.last_user or 0].payload))
        vector = self._vector()
        exchange = actions.open_exchange(asked=asked, count=self._request.count, vector=vector)
        if vector and self._recalled.vector is not None and exchange.question_id and not exchange.embedded:
            save_computed_vectors(
                self._service.embedder(),
                message_id=exchange.question_id,
                instance_id=exchange.instance_id,
                text=vector.text,
                vectors=self._recalled.vector,
            )

    def _vector(self) -> QuestionVector | None:
        """The question's vector, which recall has made, if the backlog would make the same."""
        recalled, embedder = self._recalled, self._service.embedder()
        if recalled.vector is None or recalled.model != embedder.name:
            return None
        if (piece := single_piece(embedder, recalled.question)) is None:
            return None
        literal = vector_literal(recalled.vector[0].tolist())
        return QuestionVector(recalled.question, piece.start, piece.end, recalled.model, literal)


def answered(result: Result, timings: Mapping[str, float], cost: Cost) -> actions.Answered:
    """How an exchange ended, without the turns of its answer."""
    usage = result.reply.usage or {}
    return actions.Answered(
        finished=timezone.now(),
        ended=result.ended,
        status=result.status,
        finish_reason=storable(",".join(filter(None, result.reply.finish_reasons)))[:100],
        error=storable(result.error),
        usage=storable_json(usage),
        cost=cost(usage),
        timings=timings,
        response_id=storable(result.reply.id),
    )


def as_metrics(found: actions.Answered, provider: str, model: str, scope: Scope, *, memories: int) -> metrics.Ended:
    """An exchange that has ended, as it is counted."""
    return metrics.Ended(
        provider=provider,
        model=model,
        partition=scope.partition if settings.RESERVOIR_METRICS_PARTITIONS else "",
        ended=found.ended,
        usage=found.usage or {},
        cost=found.cost,
        timings=found.timings,
        memories=memories,
    )


def answer_turns(messages: Sequence[ChatMessage]) -> tuple[Turn, ...]:
    """The turns of an answer, as they are stored."""
    return tuple(_turn(message) for message in messages if _has_content(message))


def _turn(message: ChatMessage) -> Turn:
    """A message as it is stored. A block of memories that a client or a model repeats is no part of its text."""
    return Turn.from_payload(message.stored, without_block(message.payload))


def _has_content(message: ChatMessage) -> bool:
    """Whether a message of an answer has text, a part that is no text, or a field of its own such as tool calls."""
    content = message.payload.get("content")
    return bool(
        plain_text(message.payload)
        or (isinstance(content, list) and any(not isinstance(part, dict) or "text" not in part for part in content))
        or {key for key, value in message.payload.items() if value} - {"role", "content", "refusal"}
    )
