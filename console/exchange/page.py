"""One exchange: what the app sent, what the provider got, what came back, and why."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from django.http import HttpRequest, HttpResponse

from access.usage import title
from console import safe_text
from console.access.who import may_see_keys
from console.charts import Bar, waterfall
from console.exchange import ledger
from console.exchange.curl import address, curl
from console.exchange.echoes import Echoes, find_echoes
from console.exchange.sent import added_turn, read_sent, shortened, texts_sent, with_added, with_gaps
from console.pages import page, to_instance
from console.reading import Part, parts, pretty
from console.visible import require, visible
from conversations.models import Exchange, Ledger, Message
from conversations.states import Ended, MemoryState
from proxy.answer.timings import PHASES
from proxy.memory.added import added_by
from proxy.memory.rendering import Added

PHASE_TITLES = {
    "recall": "find memories",
    "enrich": "choose and place them",
    "provider": "wait for the provider's first byte",
    "answer": "read the answer",
}

FIRST = 5  # memories that are shown unfolded


def show(request: HttpRequest, exchange: Exchange) -> HttpResponse:
    """The page of an exchange."""
    require(request, "view_message")
    instance = exchange.instance
    kept = Ledger.objects.filter(exchange=exchange).first()
    table = ledger.table(request, kept)
    sent = read_sent(request, exchange)
    texts, exact = added_by(kept) if kept else Added()
    added = [added_turn(raw) for raw in texts]
    both = with_added(sent.turns, added)
    got = [turn for turn in both if not turn.left_out]
    got_texts = texts_sent(sent, texts)
    answers = _answers(request, exchange)
    echoes = find_echoes(answers, [*sent.instructions, *sent.turns], added, table)
    memories = [(row, safe_text.marked(row.text, echoes)) for row in table.memories]
    return page(
        request,
        "exchange",
        title="Why did the model say that?",
        trail=to_instance(instance),
        exchange=exchange,
        key=title(exchange.key_id) if may_see_keys(request) else "",
        instance=instance,
        answers=[(answer, _answer(answer, echoes)) for answer in answers],
        question=next((turn for turn in reversed(sent.turns) if turn.role == "user"), None),
        got=shortened(with_gaps(both)),
        sent_count=len(sent.turns),
        left_out_count=len(both) - len(got),
        added_count=len(added),
        complete=sent.complete,
        table=table,
        memories=memories,
        first_memories=memories[:FIRST],
        more_memories=memories[FIRST:],
        first_count=FIRST,
        failed=exchange.ended in (Ended.FAILED, Ended.CUT) or (exchange.status or 0) >= 400,
        turns=[(row, safe_text.marked(row.text, echoes)) for row in table.turns],
        ledger=kept,
        echoes=bool(echoes),
        bars=_bars(exchange),
        waterfall=waterfall(_bars(exchange)),
        MemoryState=MemoryState,
        usage=_usage(exchange.usage),
        parameters=safe_text.shown(pretty(exchange.parameters)),
        curl=curl(request, exchange, sent),
        emptied=bool(kept and not texts and exchange.memories),
        exact=exact or not texts,
        dialect=sent.dialect,
        instructions=sent.instructions,
        address=address(instance, sent.dialect),
        again=sent.body(exchange.parameters),
        key_header=sent.dialect.key_header.decode(),
        headers=json.dumps(dict(sent.dialect.headers)),
        foreign=sum(turn.foreign for turn in sent.turns),
        large=sum(turn.large for turn in sent.turns),
        sent_json=safe_text.shown(pretty(sent.body(exchange.parameters))),
        got_json=safe_text.shown(pretty(sent.body(exchange.parameters, got_texts, exchange.model))),
    )


def _answers(request: HttpRequest, exchange: Exchange) -> list[Message]:
    """The answers: messages stored with this exchange that are not part of its request."""
    rows = visible(request, Message.objects.filter(exchange=exchange)).exclude(pk__in=exchange.request_ids)
    return list(rows.order_by("choice", "id").only("id", "role", "name", "content", "payload", "partial", "choice"))


def _answer(answer: Message, echoes: Echoes) -> list[Part]:
    found = parts(answer.role, answer.content, answer.payload)
    if not echoes:
        return found
    # Plain text when words are marked: marks in rendered Markdown would have to cross its tags.
    texts = [part for part in found if part.kind != "text"]
    return [Part("text", safe_text.marked(answer.content, echoes, notes=echoes)), *texts]


def _bars(exchange: Exchange) -> list[Bar]:
    """The phases in the order in which they happen."""
    phases = {name: ms for name, ms in exchange.timings.items() if name != "total" and isinstance(ms, int | float)}
    order = sorted(phases, key=lambda name: PHASES.index(name) if name in PHASES else len(PHASES))
    ends = [0.0]
    for name in order:
        ends.append(ends[-1] + phases[name])
    bars = [
        Bar(name, PHASE_TITLES.get(name, ""), start, end - start)
        for name, (start, end) in zip(order, pairwise(ends), strict=True)
    ]
    total = exchange.timings.get("total")
    if isinstance(total, int | float) and total - ends[-1] >= 0.5:
        title = "relay the answer" if exchange.streamed else "the rest"
        bars.append(Bar("stream" if exchange.streamed else "rest", title, ends[-1], total - ends[-1]))
    return bars


def _usage(usage: object, prefix: str = "") -> list[tuple[str, Any]]:
    """A provider's usage as a flat list of names and figures."""
    found: list[tuple[str, Any]] = []
    for name, value in usage.items() if isinstance(usage, dict) else ():
        label = f"{prefix}{str(name).replace('_', ' ')}"
        if isinstance(value, dict):
            found += _usage(value, f"{label}: ")
        elif value is not None:
            found.append((safe_text.shown(label)[:80], safe_text.shown(str(value))[:80]))
    return found
