"""One exchange being remembered: what is recalled for it, and its two halves as they are stored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cache, partial
from typing import Any

from django.conf import settings
from django.utils import timezone

from conversations import actions
from conversations.backlog import save_vectors
from conversations.embedders.pieces import split
from conversations.embedding import model_of
from conversations.models import Exchange
from conversations.turns import Count, Turn, plain_text, storable, storable_json
from proxy.memory.recollection import Recollection, entries, explained, question_key
from proxy.memory.service import STORE_SECONDS, Kept, MemoryOptions, MemoryService
from proxy.prompt.chat import Chat, ChatMessage, Json, Reply
from proxy.prompt.injection import Injection
from proxy.providers.registry import Target
from proxy.spool.segments import Entry

Cost = Callable[[Mapping[str, Any]], Decimal | None]

Ended = Exchange.Ended

SHORT_QUESTION = 400  # characters; a longer one is seldom a single piece, and its vectors are left to the backlog


@dataclass(frozen=True, slots=True)
class Result:
    """How an exchange ended and what it brought."""

    ended: str
    status: int | None = None
    reply: Reply = field(default_factory=Reply)
    error: str = ""


class Record:
    """One exchange being remembered: its question while the provider thinks, its answer before its last byte."""

    def __init__(
        self, memory: MemoryService, *, options: MemoryOptions, chat: Chat, target: Target, count: Count
    ) -> None:
        self._memory = memory
        self._options = options
        self._chat = chat
        self._target = target
        self.count = count
        self._recalled = Recollection()
        self._asked = actions.Asked(
            trace_id=options.trace_id,
            scope=options.scope,
            created=timezone.now(),
            model=storable(target.model),
            provider=target.provider.name,
            streamed=chat.stream,
        )
        self._opening: asyncio.Future[Kept] | None = None
        self._built = self._finished = False
        self._shown = self._tokens = 0

    async def recall(self) -> Recollection:
        """What the scope knows that matters for this request; nothing where the client wants none."""
        if self._options.recall:
            self._recalled = await self._memory.recall(self._chat, self._options, self.count)
        return self._recalled

    def remember_question(self, injection: Injection) -> None:
        """Begin to store the request. Does not wait."""
        self._shown, self._tokens = len(injection.shown), injection.tokens
        if self._options.store:
            ask = partial(self._ask, injection)
            # Who has waited for the database in vain waits no longer than that again.
            seconds = settings.RESERVOIR_RECALL_DEADLINE_MS / 1000 if self._recalled.late else STORE_SECONDS
            seconds = min(seconds, STORE_SECONDS)
            keeping = self._memory.keep(self._options, lambda: self._open(ask()), lambda: Entry(ask()), seconds=seconds)
            self._opening = self._memory.track(asyncio.ensure_future(keeping))

    @property
    def state(self) -> str:
        """on, off, or degraded where recall was late or broken."""
        return self._recalled.state

    def explain(self, injection: Injection) -> list[Json]:
        """The ledger of this request, with the messages that it is about."""
        return explained(self._recalled, injection, self.count)

    async def headers(self, timing: str) -> list[tuple[bytes, bytes]]:
        """What the client is told of its memory."""
        state = self._recalled.state
        if self._opening:
            await asyncio.wait([self._opening], timeout=settings.RESERVOIR_RECALL_DEADLINE_MS / 1000)
            if not self._opening.done() or self._opening.result() is not Kept.DATABASE:
                state = "degraded"
        told = {
            "x-reservoir-trace-id": str(self._options.trace_id),
            "x-reservoir-memory": state,
            "x-reservoir-memories": str(self._shown),
            "x-reservoir-memory-tokens": str(self._tokens),
            "server-timing": timing,
        }
        return [(name.encode(), value.encode()) for name, value in told.items()]

    async def remember_answer(self, result: Result, *, timings: Callable[[], dict[str, float]], cost: Cost) -> None:
        """Store what came back, and wait until that is committed. Goes on when the waiting task is cancelled."""
        if self._opening is None or self._finished:
            return
        self._finished = True
        usage = result.reply.usage or {}
        answered = actions.Answered(
            finished=timezone.now(),
            ended=result.ended,
            status=result.status,
            finish_reason=storable(",".join(filter(None, result.reply.finish_reasons)))[:100],
            error=storable(result.error),
            usage=storable_json(usage),
            cost=cost(usage),
            timings=timings(),
        )
        closing = self._close(self._opening, answered, result.reply.messages)
        await asyncio.shield(self._memory.track(asyncio.ensure_future(closing)))

    async def _close(
        self, opening: asyncio.Future[Kept], answered: actions.Answered, messages: Sequence[ChatMessage]
    ) -> None:
        kept = await opening
        opened = kept is not Kept.NOWHERE
        # A question that is kept already need not be written down again.
        bare = replace(self._asked, turns=(), left_out=(), prompts=(), parameters="", ledger=None)
        asked = bare if opened else self._asked

        @cache
        def whole() -> actions.Answered:
            """With its turns, which take half a second where the answer is long: not on the event loop."""
            return replace(
                answered, turns=tuple(Turn.from_payload(m.raw, m.payload) for m in messages if _says_anything(m))
            )

        def work() -> None:
            actions.close_exchange(asked=self._asked, answered=whole(), count=self.count, opened=opened)

        await self._memory.keep(self._options, work, lambda: Entry(asked, whole(), opened), spooled=kept is Kept.SPOOL)
        self._memory.wake()

    def _ledger(self, injection: Injection) -> actions.Ledger:
        return actions.Ledger(
            key=question_key(self._chat),
            candidates=tuple(entries(self._recalled, injection, self.count)),
            injected=injection.messages,
            message_ids=injection.shown,
            tokens=injection.tokens,
        )

    def _ask(self, injection: Injection) -> actions.Asked:
        """The question as it is stored. Takes a while where the history is long."""
        if self._built:
            return self._asked
        messages = self._chat.messages
        turns = [i for i, m in enumerate(messages) if not m.is_system]
        self._asked = replace(
            self._asked,
            memory=self._recalled.state,
            turns=tuple(Turn.from_payload(messages[i].raw, messages[i].payload) for i in turns),
            left_out=tuple(at for at, i in enumerate(turns) if i in injection.cut),
            prompts=tuple((i, m.raw) for i, m in enumerate(messages) if m.is_system),
            parameters=self._chat.without_messages(),
            ledger=self._ledger(injection) if self._options.recall else None,
        )
        self._built = True
        return self._asked

    def _open(self, asked: actions.Asked) -> None:
        exchange = actions.open_exchange(asked=asked, count=self.count)
        vector, question = self._recalled.vector, self._recalled.question
        embedder = self._memory.embedder()
        if vector is None or self._recalled.model != embedder.name:
            return
        if not exchange.question_id or len(question) > SHORT_QUESTION:
            return
        pieces = split(question, embedder.count)
        if len(pieces) == 1:  # then the vector that recall made of it is the one to keep
            save_vectors(
                message_id=exchange.question_id,
                instance_id=exchange.instance_id,
                model=model_of(embedder),
                pieces=pieces,
                vectors=vector,
            )


def _says_anything(message: ChatMessage) -> bool:
    return bool(
        plain_text(message.payload)
        or {key for key, value in message.payload.items() if value} - {"role", "content", "refusal"}
    )
