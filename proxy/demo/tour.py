"""The tour: Mira's questions go through the real pipeline, to the provider without a model."""

from __future__ import annotations

import asyncio
import io
import json
import os
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta

from django.conf import settings
from django.db import connection
from django.utils import timezone

from conversations import backlog
from conversations.embedders.base import Embedder
from conversations.messages import add_messages
from conversations.models import Exchange, Message
from conversations.turns import Turn
from proxy import pipeline, runtime
from proxy.call import Call
from proxy.demo import fake_provider
from proxy.demo.story import HISTORY, QUESTIONS
from proxy.dialects.chat_completions.dialect import CHAT_COMPLETIONS
from proxy.memory.exchange import MemoryOptions
from proxy.memory.service import Scope
from proxy.prompt.chat import Json
from proxy.providers import tokens

MODEL = "gpt-4o"


@dataclass(frozen=True, slots=True)
class Considered:
    """A message that recall found, and whether the model was shown it."""

    text: str
    score: float
    kept: bool
    why: str


@dataclass(frozen=True, slots=True)
class Stop:
    """One question: the messages that the app sent and the model got, the answer, and how Reservoir chose."""

    sent: list[Json]
    got: list[Json]
    answer: str
    headers: dict[str, str]
    considered: list[Considered]


def history_size() -> int:
    """How many messages Mira's history has."""
    return 2 * len(HISTORY)


async def tour(scope: Scope, began: Callable[[], object]) -> AsyncGenerator[Stop]:
    """Fill the scope with Mira's history, call `began`, and ask her questions."""
    received: list[Json] = []
    async with fake_provider.serving(on_chat=received.append) as base_url:
        # Settings that could lead to another provider are left out.
        environment = {key: value for key, value in os.environ.items() if key != "RESERVOIR_PROVIDERS"}
        running = await runtime.start(environment | {"RSV_OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": ""})
        try:
            await asyncio.to_thread(_fill_and_embed, scope, running.memory.embedder)
            began()
            for question in QUESTIONS:
                yield await _ask(scope, question, running, received)
        finally:
            await running.stop()


def _fill_and_embed(scope: Scope, embedder: Callable[[], Embedder]) -> None:
    """Store Mira's history with its vectors, on a thread that has no further use for its database connection."""
    backlog.embed(embedder(), list(Message.objects.filter(pk__in=fill(scope))))
    connection.close()


def fill(scope: Scope) -> list[int]:
    """Store Mira's history in a scope; a worker makes the vectors. Returns the messages' ids. Blocks."""
    today = timezone.now().date()
    turns = []
    for each in HISTORY:
        day = today - timedelta(days=each.days_ago)
        asked = datetime.combine(day, time.fromisoformat(each.at), UTC)
        for role, text, later in (("user", each.user, 0), ("assistant", each.assistant, 5)):
            payload = {"role": role, "content": text}
            turns.append((Turn.from_payload(json.dumps(payload), payload), asked + timedelta(seconds=later)))
    count = tokens.counter(MODEL).count
    return add_messages(scope=scope, messages=turns, count=count)


async def _ask(scope: Scope, question: str, running: runtime.Runtime, received: list[Json]) -> Stop:
    sent = [{"role": "user", "content": question}]
    body = json.dumps({"model": MODEL, "messages": sent}).encode()
    trace_id = uuid.uuid4()
    async with AsyncExitStack() as closing:
        call = Call(
            method="POST",
            trace_id=trace_id,
            scope=scope,
            options=MemoryOptions(),
            budget=settings.RESERVOIR_MEMORY_BUDGET,
            headers=[(b"content-type", b"application/json")],
            query="",
            body=io.BytesIO(body),
            size=len(body),
            closing=closing,
        )
        outcome = await pipeline.complete(call, CHAT_COMPLETIONS, running)
    assert isinstance(outcome.body, bytes)
    answer = json.loads(outcome.body)["choices"][0]["message"]["content"]
    headers = {name.decode(): value.decode() for name, value in outcome.headers}
    considered = await asyncio.to_thread(_considered, trace_id)
    return Stop(sent, received[-1]["messages"], answer, headers, considered)


def _considered(trace_id: uuid.UUID) -> list[Considered]:
    exchange = Exchange.objects.select_related("ledger").get(trace_id=trace_id)
    entries = [entry for entry in exchange.ledger.entries if entry["arm"] == "recall"]
    texts = dict(Message.objects.filter(pk__in=[e["id"] for e in entries]).values_list("pk", "content"))
    connection.close()
    return [Considered(texts[e["id"]], e["score"], e["kept"], e["why"]) for e in entries if e["id"] in texts]
