"""Answers that a provider makes in the background: asked for by one request, fetched by a later one.

OpenAI's Responses take `background: true` and answer at once that the response is queued. The exchange stays open then,
with the provider's id. A later GET is relayed like any other route, and the answer is stored when it comes complete.
"""

from __future__ import annotations

import re
from functools import partial

from proxy.answer import relay
from proxy.answer.timings import Stopwatch
from proxy.call import Call
from proxy.dialects.responses.dialect import RESPONSES
from proxy.memory.background import BackgroundExchange
from proxy.pipeline import Outcome
from proxy.providers.cost import exchange_cost
from proxy.routes import NO_MEMORY
from proxy.runtime import Runtime
from proxy.upstream import address, outgoing, relayed

_RESPONSE = re.compile(r"/responses/([A-Za-z0-9_-]{1,200})")


def response_id(path: str) -> str:
    """The id in the path of a stored response, `/responses/{id}`; empty for other paths."""
    match = _RESPONSE.fullmatch(path)
    return match[1] if match else ""


async def fetch(call: Call, rest: str, id_: str, run: Runtime) -> Outcome | None:
    """A response that this scope awaits, by its id: relayed, and stored if it is complete. None for any other."""
    pending = await run.memory.pending(call.scope, id_)
    target = run.providers.target(pending.provider, pending.model) if pending else None
    if pending is None or target is None or not call.options.store:
        return None
    watch = Stopwatch()
    cost = partial(exchange_cost, run.providers, target)
    exchange = BackgroundExchange(run.memory, call.scope, pending)
    charge = partial(run.quotas.charge, call.caller, call.scope.partition, cost, call.size)
    remember = partial(exchange.remember_answer, timings=watch.total, cost=cost, charge=charge)
    headers = outgoing(call.headers_for(target.provider), key=call.key_for(target.provider), parsed=True)
    url = address(target.provider.base_url, rest, call.query)
    answer = await run.upstream.send("GET", url, headers, b"", name=target.provider.name)
    call.closing.push_async_callback(answer.close)
    headers = [*relayed(answer.headers, parsed=True), NO_MEMORY]
    if await relay.is_stream(answer, requested="stream=true" in call.query):
        return Outcome(answer.status, headers, relay.stream(answer, RESPONSES, remember))
    body, more = await relay.receive(answer)
    if more:
        return Outcome(answer.status, headers, relay.large(answer, body, more, remember))
    await remember(await relay.whole(answer, body, RESPONSES))
    return Outcome(answer.status, headers, body)
