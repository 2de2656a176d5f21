"""One exchange: what the app sent, what the provider got, what came back, and why."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from typing import Any
from urllib.parse import quote

from django.http import HttpRequest, HttpResponse
from django.utils.safestring import SafeString

from console import ledger, safe_text
from console.charts import Bar, waterfall
from console.ledger import Row
from console.pages import page, to_instance
from console.reading import LARGEST_PAYLOAD, Part, parts, pretty
from console.request_body import body
from console.visible import require, visible
from console.words import tells_something, words
from conversations.models import Exchange, Ledger, Message
from conversations.turns import plain_text
from proxy.answer.timings import PHASES
from proxy.prompt.chat import last_user_index
from proxy.prompt.enrichment import BLOCK_START
from proxy.providers import configuration

# A client that resends a long history: this many of its turns are shown, the others are named by their number.
MOST_TURNS = 40

PHASE_TITLES = {
    "recall": "find memories",
    "enrich": "choose and place them",
    "provider": "wait for the provider's first byte",
    "answer": "read the answer",
}


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of the request. `added` by us; `left_out` by us; without `id`, it is not stored."""

    role: str = ""
    content: str = ""
    raw: str = ""
    added: bool = False
    left_out: bool = False  # the model's window had no room for it
    id: int | None = None
    large: bool = False  # `raw` stands for a message that is too large to be shown here
    skipped: int = 0  # in place of so many turns of the client, which are not shown here
    unsent: int = 0  # in place of so many turns that were left out
    latest: str = ""  # the text of one of the latest turns, which are folded

    @property
    def parts(self) -> list[Part]:
        """Laid out only when shown: a client may resend thousands."""
        if self.added:
            return [Part("text", safe_text.plain(self.content))]
        return parts(self.role, self.content, "" if self.large else self.raw)


@dataclass(frozen=True, slots=True)
class Request:
    """What the app sent, put together again from what is stored."""

    turns: list[Turn] = field(default_factory=list)  # system prompts included, nothing added
    complete: bool = True  # nothing of it has been forgotten


def show(request: HttpRequest, exchange: Exchange) -> HttpResponse:
    """The page of an exchange."""
    require(request, "view_message")
    instance = exchange.instance
    kept = Ledger.objects.filter(exchange=exchange).first()
    table = ledger.table(request, kept)
    sent = _sent(request, exchange)
    added = [_added(raw) for raw in kept.injected] if kept else []
    both = _with_added(sent.turns, added)
    got = [turn for turn in both if not turn.left_out]
    answers = _answers(request, exchange)
    # What was added is gone when something it quoted was forgotten; the rest of what it quoted is still there.
    recalled = [] if added else [row.text for row in (*table.memories, *table.turns)]
    echoes = _echoes(answers, sent.turns, added, recalled)
    return page(
        request,
        "exchange",
        title="Why did the model say that?",
        trail=to_instance(instance),
        exchange=exchange,
        instance=instance,
        answers=[(answer, _answer(answer, echoes)) for answer in answers],
        question=next((turn for turn in reversed(sent.turns) if turn.role == "user"), None),
        got=_shortened(_with_gaps(both)),
        sent_count=len(sent.turns),
        left_out_count=len(both) - len(got),
        added_count=len(added),
        complete=sent.complete,
        table=table,
        memories=_by_echo([(row, safe_text.marked(row.text, echoes)) for row in table.memories]),
        turns=[(row, safe_text.marked(row.text, echoes)) for row in table.turns],
        ledger=kept,
        echoes=bool(echoes),
        bars=_bars(exchange),
        waterfall=waterfall(_bars(exchange)),
        usage=_usage(exchange.usage),
        parameters=safe_text.shown(pretty(exchange.parameters)),
        curl=_curl(request, exchange, sent),
        emptied=bool(kept and not kept.injected and exchange.memories),
        large=sum(turn.large for turn in sent.turns),
        sent_json=safe_text.shown(pretty(body(exchange.parameters, [turn.raw for turn in sent.turns]))),
        got_json=safe_text.shown(pretty(body(exchange.parameters, [turn.raw for turn in got], model=exchange.model))),
    )


def _sent(request: HttpRequest, exchange: Exchange) -> Request:
    """The request's messages: stored ones by their ids, system prompts at their places."""
    ids = exchange.request_ids
    stored = {
        message.pk: message
        for message in visible(request, Message.objects.with_raw(LARGEST_PAYLOAD).filter(pk__in=ids))
    }
    left_out = set(exchange.left_out)
    turns = [replace(_stored(stored[pk]), left_out=at in left_out) for at, pk in enumerate(ids) if pk in stored]
    for place, raw in sorted(exchange.prompts):
        turns.insert(place, _turn(raw))
    return Request(turns, complete=len(stored) == len(set(ids)) and bool(exchange.parameters))


def _stored(message: Any) -> Turn:
    large = message.size > LARGEST_PAYLOAD
    instead = {"role": message.role, "content": f"({message.size:,} bytes: see message {message.pk})"}
    raw = json.dumps(instead) if large else message.raw
    return Turn(message.role, message.content, raw, id=message.pk, large=large)


def _turn(raw: str) -> Turn:
    payload = _object(raw)
    return Turn(str(payload.get("role") or ""), plain_text(payload), raw)


def _added(raw: str) -> Turn:
    payload = _object(raw)
    text = plain_text(payload)
    latest = "" if text.startswith(BLOCK_START) else text
    return Turn(str(payload.get("role") or ""), text, raw, added=True, latest=latest)


def _with_added(turns: Sequence[Turn], added: Sequence[Turn]) -> list[Turn]:
    """The turns with the additions where the proxy puts them, or at the end where the user message is forgotten."""
    at = last_user_index(turns)
    return [*turns, *added] if at is None else [*turns[:at], *added, *turns[at:]]


def _with_gaps(turns: Sequence[Turn]) -> list[Turn]:
    """The turns as the provider got them, and in each place where some were left out how many."""
    found: list[Turn] = []
    for left_out, run in groupby(turns, key=lambda turn: turn.left_out):
        run_of = list(run)
        found += [Turn(unsent=len(run_of))] if left_out else run_of
    return found


def _shortened(turns: list[Turn]) -> list[Turn]:
    if len(turns) <= MOST_TURNS:
        return turns
    half = MOST_TURNS // 2
    gap = Turn(skipped=len(turns) - 2 * half)
    return [*turns[:half], gap, *turns[-half:]]


def _answers(request: HttpRequest, exchange: Exchange) -> list[Message]:
    """What came back: stored with this exchange, and not part of its request."""
    rows = visible(request, Message.objects.filter(exchange=exchange)).exclude(pk__in=exchange.request_ids)
    return list(rows.order_by("choice", "id").only("id", "role", "name", "content", "payload", "partial", "choice"))


def _answer(answer: Message, echoes: Sequence[str]) -> list[Part]:
    found = parts(answer.role, answer.content, answer.payload)
    if not echoes:
        return found
    # Plain while words are marked: marks inside laid-out Markdown would have to reach into its tags.
    texts = [part for part in found if part.kind != "text"]
    return [Part("text", safe_text.marked(answer.content, echoes)), *texts]


def _echoes(
    answers: Sequence[Message], sent: Sequence[Turn], added: Sequence[Turn], recalled: Sequence[str]
) -> list[str]:
    """Words of the answer that stand in what was added, and nowhere in what the app sent: the memory speaking."""
    memory = _words(*(plain_text(_object(turn.raw)) for turn in added), *recalled)
    own = _words(*(plain_text(_object(turn.raw)) for turn in sent))
    said = _words(*(answer.content for answer in answers))
    return sorted(word for word in (said & memory) - own if tells_something(word) or _is_number(word))


def _is_number(word: str) -> bool:
    """Of some length: what somebody looks for when something was told that should not have been."""
    return word.isdigit() and len(word) > 2


def _by_echo(memories: list[tuple[Row, SafeString]]) -> list[tuple[Row, SafeString]]:
    """Those that the answer echoes first."""
    return sorted(memories, key=lambda memory: -memory[1].count("<mark>"))


def _words(*texts: str) -> set[str]:
    return {word for text in texts for word in words(text)}


def _bars(exchange: Exchange) -> list[Bar]:
    """The phases one after the other, in the order in which they happen."""
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


def _curl(request: HttpRequest, exchange: Exchange, sent: Request) -> SafeString | str:
    """The command that asks the same again, with no memory added and nothing kept of it."""
    if not sent.complete or any(turn.large for turn in sent.turns):
        return ""
    partition, instance = (quote(name, safe="") for name in (exchange.instance.partition.name, exchange.instance.name))
    url = f"{request.scheme}://{request.get_host()}/v1/partition/{partition}/instance/{instance}/chat/completions"
    key = _key_variable(exchange.provider)
    return " \\\n    ".join(
        [
            f"curl {shlex.quote(url)}",
            '-H "Content-Type: application/json"',
            *([f'-H "Authorization: Bearer ${key}"'] if key else []),
            '-H "X-Reservoir-Recall: off" -H "X-Reservoir-Store: off"',
            f"-d {shlex.quote(safe_text.escaped(body(exchange.parameters, [turn.raw for turn in sent.turns])))}",
        ]
    )


def _key_variable(provider: str) -> str:
    """The environment variable that holds the provider's key; empty for a provider that is unknown or needs none."""
    try:
        return configuration.from_environment(os.environ).key_variable(provider)
    except ValueError:  # the providers' file has become invalid since the server started
        return ""


def _object(raw: str) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
