"""What does each phase of a request cost: CPU time of Python and of PostgreSQL, statements, round trips?

The phases of proxy/pipeline.py run one after another in this process, with the real memory service and the embedded
PostgreSQL, in a scope of generated messages. The client resends its latest turns with each question. CPU time is that
of all threads of this process, and of PostgreSQL's processes for its connections.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import progress
from benchmarks.home import home
from benchmarks.processes import cpu_seconds
from benchmarks.statements import Statements, counted
from benchmarks.texts import Writer, history
from conversations.embedders.base import Embedder

SCOPE = ("benchmark", "phases")
WINDOW = 6  # turns that the client resends
WARM_UP = 20
MODEL = "gpt-4o"

Json = dict[str, Any]


@dataclass
class Cost:
    """What one phase has taken so far; times in seconds."""

    python: float = 0.0
    postgres: float = 0.0
    statements: Statements = field(default_factory=Statements)


class Meter:
    """Adds up the cost of each phase."""

    def __init__(self) -> None:
        self.phases: dict[str, Cost] = defaultdict(Cost)
        self.current = Statements()  # of no phase

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        cost = self.phases[name]
        self.current, outside = cost.statements, self.current
        postgres, python = cpu_seconds(_backends()), time.process_time()
        try:
            yield
        finally:
            cost.python += time.process_time() - python
            cost.postgres += cpu_seconds(_backends()) - postgres
            self.current = outside


_known_backends: list[int] = []


def _backends() -> list[int]:
    """PostgreSQL's processes for the connections of this process."""
    return _known_backends


def find_backends() -> None:
    """Look for connections made since the last time."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'")
        _known_backends[:] = [pid for (pid,) in cursor.fetchall()]


def fill(messages: int) -> None:
    """Store a history with vectors."""
    from django.core.management import call_command

    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as archive:
        archive.writelines(history(*SCOPE, messages, seed=1))
        archive.flush()
        call_command("import", archive.name, json=True, stdout=io.StringIO())


class Client:
    """An app that resends its latest turns with each question."""

    scope = SCOPE
    dialect = "chat_completions"

    def __init__(self, answer_words: int) -> None:
        self._writer = Writer(seed=2)
        self._words = answer_words
        self._turns: list[Json] = []

    def body(self) -> bytes:
        """The next request."""
        self._turns = [*self._turns[-WINDOW + 1 :], {"role": "user", "content": self._writer.question()}]
        return json.dumps({"model": MODEL, "messages": self._turns}).encode()

    def answer(self) -> bytes:
        """The provider's answer to it."""
        message = {"role": "assistant", "content": self.answer_text()}
        self._turns.append(message)
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 100, "completion_tokens": self._words}
        return json.dumps({"id": "a", "object": "chat.completion", "choices": [choice], "usage": usage}).encode()

    def answer_text(self) -> str:
        return self._writer.sentence(self._words)


class ResponsesClient(Client):
    """The same app, through OpenAI's Responses."""

    dialect = "responses"

    def body(self) -> bytes:
        asked = json.loads(super().body())
        return json.dumps({"model": MODEL, "input": asked["messages"], "store": False}).encode()

    def answer(self) -> bytes:
        whole = json.loads(super().answer())
        part = {"type": "output_text", "text": whole["choices"][0]["message"]["content"], "annotations": []}
        item = {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [part]}
        usage = {"input_tokens": 100, "output_tokens": self._words, "total_tokens": 100 + self._words}
        told = {"id": "resp_1", "object": "response", "status": "completed", "output": [item], "usage": usage}
        return json.dumps(told).encode()


class MessagesClient(Client):
    """The same app, through Anthropic's Messages. The model is OpenAI's, so that tokens are counted alike."""

    dialect = "messages"

    def body(self) -> bytes:
        asked = json.loads(super().body())
        return json.dumps({"model": MODEL, "max_tokens": 500, "messages": asked["messages"]}).encode()

    def answer(self) -> bytes:
        whole = json.loads(super().answer())
        content = [{"type": "text", "text": whole["choices"][0]["message"]["content"]}]
        usage = {"input_tokens": 100, "output_tokens": self._words}
        told = {"id": "msg_1", "type": "message", "role": "assistant", "content": content, "stop_reason": "end_turn"}
        return json.dumps({**told, "usage": usage}).encode()


CLIENTS = {client.dialect: client for client in (Client, ResponsesClient, MessagesClient)}


class Run:
    """One server's objects, without HTTP."""

    def __init__(self, *, recall: bool) -> None:
        from proxy.memory.exchange import MemoryOptions
        from proxy.memory.service import MemoryService
        from proxy.providers import configuration
        from proxy.rules import rules_file

        self._memory = MemoryService()
        self._providers = configuration.from_environment({})
        self._rules = rules_file.from_environment({})
        self._options = MemoryOptions(recall=recall)

    def use(self, embedder: Embedder) -> None:
        """Embed by this one, which bears the name of the model in use."""
        self._memory.embedder = lambda: embedder  # type: ignore[assignment]

    async def exchange(self, client: Client, meter: Meter) -> None:
        """One request from its decoding to the vectors of its answer."""
        from django.conf import settings

        from conversations.backlog import BATCH, work_off
        from conversations.querysets import Scope
        from proxy.dialects.known import BY_NAME
        from proxy.memory.exchange import Ended, RememberedExchange, Request, Result
        from proxy.prompt.injection import Constraints, inject
        from proxy.prompt.window import Limit, admit
        from proxy.providers import tokens

        body, answer = client.body(), client.answer()
        dialect = BY_NAME[client.dialect]
        with meter.phase("decode"):
            chat = dialect.decode(body)
            target = self._providers.select(chat.model)
            counter = tokens.counter(target.model)
            limit = Limit(self._providers.window(target), counter.exact)
            admit(chat, limit, counter.count)
            scope = Scope(*client.scope)
            request = Request(uuid.uuid4(), scope, self._options, chat, target, counter.count)
            exchange = RememberedExchange(self._memory, request)
            await exchange.decide(self._rules.holding(chat, []), polls=True)
        with meter.phase("recall"):
            recalled = await exchange.recall()
        with meter.phase("enrich"):
            constraints = Constraints(
                budget=settings.RESERVOIR_MEMORY_BUDGET,
                limit=limit,
                default_window=settings.RESERVOIR_DEFAULT_WINDOW,
                role=dialect.place(target.memory_role),
                count=counter.count,
                names=dialect.names,
            )
            injection = inject(chat, recalled.additions, constraints, reused=recalled.reused)
            injection.chat.encode(target.model)
        with meter.phase("open"):
            exchange.remember_question(injection)
            headers = dict(await exchange.headers(""))
        with meter.phase("close"):
            result = Result(Ended.ANSWERED, 200, dialect.reply(answer))
            await exchange.remember_answer(result, timings=dict, charge=lambda _: None, cost=lambda usage: None)
        with meter.phase("backlog"):
            while await asyncio.to_thread(lambda: work_off(self._memory.embedder())) == BATCH:
                pass
        assert headers[b"x-reservoir-memory"] != b"degraded", "memory was late: nothing of this run can be used"


async def measure(run: Run, client: Client, exchanges: int) -> Meter:
    for _ in range(WARM_UP):
        await run.exchange(client, Meter())
    await asyncio.to_thread(find_backends)
    meter = Meter()
    with counted(lambda: meter.current):
        for number in range(exchanges):
            await run.exchange(client, meter)
            progress.tell(f"{number + 1} of {exchanges} exchanges")
    progress.done()
    return meter


def figures(meter: Meter, exchanges: int) -> dict[str, dict[str, float]]:
    """For each phase and in all: milliseconds of CPU and counts, an exchange."""
    found = {
        name: {
            "python_ms": 1000 * cost.python / exchanges,
            "postgres_ms": 1000 * cost.postgres / exchanges,
            "statements": cost.statements.sent.total() / exchanges,
            "round_trips": cost.statements.round_trips / exchanges,
            "transactions": cost.statements.transactions / exchanges,
        }
        for name, cost in meter.phases.items()
    }
    columns = next(iter(found.values()))
    return found | {"in all": {column: sum(phase[column] for phase in found.values()) for column in columns}}


def show(found: dict[str, dict[str, float]]) -> None:
    print("an exchange    CPU ms: Python  PostgreSQL   statements  round trips  transactions")
    for name, phase in found.items():
        python, postgres, *counts = phase.values()
        print(f"{name:<14}{python:15.2f}{postgres:12.2f}   " + "  ".join(f"{count:10.1f}" for count in counts))


def show_statements(meter: Meter, exchanges: int) -> None:
    for name, cost in meter.phases.items():
        print(f"\n{name}")
        for text, times in cost.statements.sent.most_common():
            print(f"{times / exchanges:7.2f}  {text}")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="script/benchmark profile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""examples:
  script/benchmark profile                      full memory in a scope of 1,000 messages
  script/benchmark profile --statements         and which statements each phase sends, how often an exchange
  script/benchmark profile --recall off         store only
  script/benchmark profile --dialect messages   through Anthropic's Messages
  script/benchmark profile --answer 375         answers of about 500 tokens

The figures of two runs can be compared only if the machine was as busy in both: run the two versions in turn.""",
    )
    parser.add_argument("--messages", type=int, default=1_000, metavar="N", help="in the scope at first (1000)")
    parser.add_argument("--exchanges", type=int, default=200, metavar="N", help="that are measured (200)")
    parser.add_argument("--answer", type=int, default=20, metavar="WORDS", help="length of the answers (20)")
    parser.add_argument("--dialect", choices=CLIENTS, default="chat_completions", help="the API that is asked")
    parser.add_argument("--recall", choices=("on", "off"), default="on")
    parser.add_argument("--statements", action="store_true", help="list the statements of each phase")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file, too")
    options = parser.parse_args(arguments)
    os.environ["RESERVOIR_RECALL_DEADLINE_MS"] = "60000"  # a busy machine changes what is done, otherwise
    with home():
        from django.conf import settings

        from conversations.embedding import active_model
        from proxy.providers import tokens
        from reservoir_site import database, server

        try:
            server.prepare_database()
            tokens.prepare(settings.RESERVOIR_HOME / "tiktoken")
            active_model()
            fill(options.messages)
            run, client = Run(recall=options.recall == "on"), CLIENTS[options.dialect](options.answer)
            meter = asyncio.run(measure(run, client, options.exchanges))
        finally:
            if embedded := database.embedded():
                embedded.release()
    found = figures(meter, options.exchanges)
    show(found)
    if options.statements:
        show_statements(meter, options.exchanges)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
