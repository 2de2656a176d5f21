"""THE STORY of one request. Read this first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from functools import partial

from django.conf import settings

from proxy.answer import relay
from proxy.answer.metered import metered
from proxy.answer.timings import Stopwatch
from proxy.call import Call
from proxy.dialects.chat_completions.dialect import CHAT_COMPLETIONS
from proxy.dialects.dialect import Dialect
from proxy.dialects.known import spoken
from proxy.errors import ProviderError
from proxy.inquiry import Inquiry
from proxy.memory.exchange import RememberedExchange, Request
from proxy.prompt.chat import Chat
from proxy.prompt.injection import Constraints, Injection, inject
from proxy.prompt.window import Limit, admit
from proxy.providers import tokens
from proxy.providers.cost import exchange_cost
from proxy.providers.registry import Target
from proxy.routes import NO_MEMORY
from proxy.runtime import Runtime
from proxy.upstream import Headers, address, outgoing, relayed


@dataclass(frozen=True, slots=True)
class Outcome:
    """The response to the client. An iterator is a body still to come; its consumer closes it."""

    status: int
    headers: Headers
    body: bytes | AsyncIterator[bytes]


async def complete(call: Call, dialect: Dialect, run: Runtime) -> Outcome:
    """Ask a model: recall memories, add them, ask the provider, relay the answer, store question and answer."""
    if not call.is_readable:
        return await pass_through(call, dialect.path, run)
    watch = Stopwatch()
    call = await call.offload(call.decompressed, settings.RESERVOIR_BODY_LIMIT)
    chat = await call.offload(dialect.decode, call.read())
    target = run.providers.speaking(dialect.name, chat.model)
    constraints = _constraints(target, dialect, run, budget=call.budget)
    await call.offload(admit, chat, constraints.limit, constraints.count)

    request = Request(
        call.trace_id, call.scope, call.options, chat, target, constraints.count, call.caller.key_id, call.traceparent
    )
    exchange = RememberedExchange(run.memory, request)
    await exchange.decide(run.rules.holding(chat, call.headers), polls=run.rules.polls)
    injection = await _enrich(call, exchange, chat, constraints, watch)

    exchange.remember_question(injection)  # while the provider is working
    cost = partial(exchange_cost, run.providers, target)
    charge = partial(run.quotas.charge, call.caller, call.scope.partition, cost, call.size)
    remember = partial(exchange.remember_answer, timings=watch.total, cost=cost, charge=charge)
    call.closing.push_async_callback(remember, relay.gone())  # takes effect only if no other result came before
    url = address(target.provider.base_url, dialect.path, call.query)
    headers = outgoing(
        call.headers_for(target.provider), key=call.key_for(target.provider), parsed=True, key_header=dialect.key_header
    )
    try:
        body = injection.chat.encode(target.model)
        answer = await run.upstream.send("POST", url, headers, body, name=target.provider.name)
        call.closing.push_async_callback(answer.close)
        watch.lap("provider")
        if await relay.is_stream(answer, requested=chat.stream):
            headers = relayed(answer.headers, parsed=True) + await exchange.headers(watch.header())
            return Outcome(answer.status, headers, relay.stream(answer, dialect, remember))
        body, rest = await relay.receive(answer)
        watch.lap("answer")
    except ProviderError as error:
        await remember(relay.failed(error))
        error.headers.extend(await exchange.headers(watch.header()))
        raise
    headers = relayed(answer.headers, parsed=True)
    if rest:
        headers += await exchange.headers(watch.header())
        return Outcome(answer.status, headers, relay.large(answer, body, rest, remember))
    await remember(await relay.whole(answer, body, dialect))
    return Outcome(answer.status, headers + await exchange.headers(watch.header()), body)


async def recall(call: Call, run: Runtime) -> Outcome:
    """The memories that a chat completion with a text would get, and why. Asks no provider and stores nothing."""
    watch = Stopwatch()
    inquiry = await call.offload(Inquiry.of, call)
    chat = inquiry.chat
    target = run.providers.select(chat.model)
    constraints = _constraints(target, CHAT_COMPLETIONS, run, budget=inquiry.budget)
    options = replace(call.options, candidates=inquiry.limit or call.options.candidates)
    request = Request(call.trace_id, call.scope, options, chat, target, constraints.count)
    exchange = RememberedExchange(run.memory, request)
    await exchange.decide(run.rules.holding(chat, call.headers), polls=False)
    injection = await _enrich(call, exchange, chat, constraints, watch)
    entries = await call.offload(exchange.explain, injection)
    answer = partial(inquiry.answer, call.scope, state=exchange.state, entries=entries, injection=injection)
    body = await asyncio.to_thread(answer, timings=watch.total())
    headers = [(b"content-type", b"application/json"), *await exchange.headers(watch.header())]
    return Outcome(200, headers, body)


async def pass_through(call: Call, rest: str, run: Runtime) -> Outcome:
    """Any other route of the provider's API: relayed untouched, in constant memory."""
    limit = settings.RESERVOIR_BODY_LIMIT
    model = await call.offload(call.model, rest, limit)
    dialect = spoken(rest, call.headers)
    target = run.providers.speaking(dialect.name, model) if dialect else run.providers.select(model)
    if target.model != model:
        call, rest = await call.offload(call.with_model, rest, target.model, limit)
    key_header = (dialect or CHAT_COMPLETIONS).key_header
    headers = outgoing(
        call.headers_for(target.provider),
        key=call.key_for(target.provider),
        parsed=False,
        size=call.size,
        key_header=key_header,
    )
    url = address(target.provider.base_url, rest, call.query)
    body = call.chunks() if call.size else b""
    answer = await run.upstream.send(call.method, url, headers, body, name=target.provider.name)
    call.closing.push_async_callback(answer.close)
    chunks = answer.chunks()
    if run.quotas.counts(call.caller, call.scope.partition):
        cost = partial(exchange_cost, run.providers, target)
        chunks = metered(answer, partial(run.quotas.spend, call.caller, call.scope.partition, cost))
    return Outcome(answer.status, [*relayed(answer.headers), NO_MEMORY], chunks)


def _constraints(target: Target, dialect: Dialect, run: Runtime, *, budget: int) -> Constraints:
    counter = tokens.counter(target.model)
    return Constraints(
        budget=budget,
        limit=Limit(run.providers.window(target), counter.exact),
        default_window=settings.RESERVOIR_DEFAULT_WINDOW,
        role=dialect.place(target.memory_role),
        count=counter.count,
        names=dialect.names,
    )


async def _enrich(
    call: Call, exchange: RememberedExchange, chat: Chat, constraints: Constraints, watch: Stopwatch
) -> Injection:
    """Recall, then add to the chat the memories that fit."""
    recalled = await exchange.recall()
    watch.lap("recall")
    injection = await call.offload(inject, chat, recalled.additions, constraints, reused=recalled.reused)
    watch.lap("enrich")
    return injection
