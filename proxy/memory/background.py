"""The answer of an exchange that a provider makes in the background, fetched by a later request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import cache

from django.utils import timezone

from conversations import actions
from conversations.chains import Pending
from conversations.querysets import Scope
from conversations.states import Ended
from proxy import metrics, tracing
from proxy.memory.exchange import Cost, Result, answer_turns, answered, as_metrics
from proxy.memory.service import MemoryService
from proxy.spool.record import Entry


class BackgroundExchange:
    """An exchange whose answer is fetched by a later request."""

    def __init__(self, service: MemoryService, scope: Scope, pending: Pending) -> None:
        self._service = service
        self._pending = pending
        self._asked = actions.Asked(
            trace_id=pending.trace_id,
            scope=scope,
            created=timezone.now(),
            model=pending.model,
            provider=pending.provider,
            streamed=False,
        )

    async def remember_answer(
        self, result: Result, *, timings: Callable[[], dict[str, float]], cost: Cost, charge: Callable[[Result], None]
    ) -> None:
        """Store the answer if it is there, and wait for the commit: a refusal to fetch it says nothing about it."""
        if result.ended not in (Ended.ANSWERED, Ended.FAILED, Ended.CUT) or (result.status or 0) >= 400:
            return
        if result.ended is Ended.CUT and result.reply.error is None:
            return
        charge(result)
        pending = self._pending
        found = answered(result, timings(), cost)
        # How long it took to fetch says nothing of the phases of a request.
        counted = replace(found, timings={})
        ended = as_metrics(counted, pending.provider, pending.model, self._asked.scope, memories=pending.memories)
        metrics.exchange_ended(ended)
        tracing.exchange_ended(ended, trace_id=str(pending.trace_id), parent="")

        @cache
        def whole() -> actions.Answered:
            return replace(found, turns=() if pending.rule else answer_turns(result.reply.messages))

        storing = self._service.store(
            lambda: actions.close_exchange(asked=self._asked, answered=whole(), opened=True),
            lambda: Entry(self._asked, whole(), opened=True),
            scope=self._asked.scope,
            trace_id=self._asked.trace_id,
        )
        await asyncio.shield(self._service.track(asyncio.ensure_future(storing)))
        self._service.wake()
