"""THE STORY of one request. Read this first."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

from django.conf import settings

from proxy.answer import relay
from proxy.answer.timings import Stopwatch
from proxy.call import Call
from proxy.errors import ProviderError
from proxy.inquiry import Inquiry, answer
from proxy.memory.exchange import Record
from proxy.prompt.chat import Chat, MemoryRole, decode
from proxy.prompt.injection import Injection, inject
from proxy.prompt.window import Limit, admit
from proxy.providers import tokens
from proxy.providers.cost import exchange_cost
from proxy.runtime import Runtime
from proxy.upstream import Headers, address, outgoing, relayed


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the client gets. A body that is an iterator is still coming; who iterates it closes it."""

    status: int
    headers: Headers
    body: bytes | AsyncIterator[bytes]


async def complete(call: Call, run: Runtime) -> Outcome:
    """A chat completion: recall what matters for it, add that, ask, relay the answer, remember both."""
    watch = Stopwatch()
    chat = await call.offload(decode, call.read())
    target = run.providers.select(chat.model)
    counter = tokens.counter(target.model)
    limit = Limit(run.providers.window(target), counter.exact)
    await call.offload(admit, chat, limit, counter.count)

    memory = Record(run.memory, options=call.options, chat=chat, target=target, count=counter.count)
    injection = await _enrich(call, memory, chat, limit, watch, budget=call.budget, role=target.provider.memory_role)

    memory.remember_question(injection)  # while the provider thinks
    cost = partial(exchange_cost, run.providers, target)
    remember = partial(memory.remember_answer, timings=watch.total, cost=cost)
    call.closing.push_async_callback(remember, relay.gone())  # counts if nothing else has come of it
    url = address(target.provider.base_url, "chat/completions", call.query)
    headers = outgoing(call.headers, key=target.provider.key, parsed=True)
    try:
        answer = await run.upstream.send("POST", url, headers, injection.chat.encode(target.model))
        call.closing.push_async_callback(answer.close)
        watch.lap("provider")
        if answer.is_event_stream:
            headers = relayed(answer.headers, parsed=True) + await memory.headers(watch.header())
            return Outcome(answer.status, headers, relay.stream(answer, remember))
        body, rest = await relay.receive(answer)
        watch.lap("answer")
    except ProviderError as error:
        await remember(relay.failed(error))
        error.headers.extend(await memory.headers(watch.header()))
        raise
    headers = relayed(answer.headers, parsed=True)
    if rest:
        headers += await memory.headers(watch.header())
        return Outcome(answer.status, headers, relay.large(answer, body, rest, remember))
    await remember(await relay.whole(answer, body))
    return Outcome(answer.status, headers + await memory.headers(watch.header()), body)


async def recall(call: Call, run: Runtime) -> Outcome:
    """What a chat completion with a text would be given, and why. Asks nobody, stores nothing."""
    watch = Stopwatch()
    inquiry = await call.offload(Inquiry.of, call)
    chat = inquiry.chat
    target = run.providers.select(chat.model)
    counter = tokens.counter(target.model)
    limit = Limit(run.providers.window(target), counter.exact)
    options = call.options._replace(candidates=inquiry.limit or call.options.candidates)
    memory = Record(run.memory, options=options, chat=chat, target=target, count=counter.count)
    role = target.provider.memory_role
    injection = await _enrich(call, memory, chat, limit, watch, budget=inquiry.budget, role=role)
    entries = await call.offload(memory.explain, injection)
    body = answer(inquiry, options.scope, memory.state, entries, injection, watch.total())
    headers = [(b"content-type", b"application/json"), *await memory.headers(watch.header())]
    return Outcome(200, headers, body)


async def pass_through(call: Call, rest: str, run: Runtime) -> Outcome:
    """Anything else that the provider's API offers, untouched and in constant memory."""
    limit = settings.RESERVOIR_BODY_LIMIT
    model = await call.offload(call.model, rest, limit)
    target = run.providers.select(model)
    if target.model != model:
        call, rest = await call.offload(call.with_model, rest, target.model, limit)
    headers = outgoing(call.headers, key=target.provider.key, parsed=False, size=call.size)
    url = address(target.provider.base_url, rest, call.query)
    answer = await run.upstream.send(call.method, url, headers, call.chunks() if call.size else b"")
    call.closing.push_async_callback(answer.close)
    return Outcome(answer.status, relayed(answer.headers), answer.chunks())


async def _enrich(
    call: Call,
    memory: Record,
    chat: Chat,
    limit: Limit,
    watch: Stopwatch,
    *,
    budget: int,
    role: MemoryRole,
) -> Injection:
    """Recall, and put into the chat what there is room for."""
    recalled = await memory.recall()
    watch.lap("recall")
    injection = await call.offload(
        inject,
        chat,
        recalled.additions,
        reused=recalled.reused,
        budget=budget,
        role=role,
        limit=limit,
        window=settings.RESERVOIR_DEFAULT_WINDOW,
        count=memory.count,
    )
    watch.lap("enrich")
    return injection
