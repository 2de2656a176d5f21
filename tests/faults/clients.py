"""Clients that record every word they send and read.

Every question is unique and the provider repeats it, so stored turns can be compared with the clients' records byte
for byte.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import httpx

ASK_SECONDS = 300  # a client that waits longer has found a fault, even on a slow machine


@dataclass
class Asked:
    """One exchange as its client saw it. `answer` is None unless the client read all of it."""

    scope: tuple[str, str]
    message: str  # the JSON text of the question
    question: str
    trace_id: str = ""
    memory: str = ""
    answer: str | None = None
    seconds: float = 0.0


@dataclass
class Ledger:
    """The exchanges of all clients."""

    asked: list[Asked] = field(default_factory=list)

    @property
    def answered(self) -> list[Asked]:
        return [one for one in self.asked if one.answer is not None]


def words(rng: random.Random) -> str:
    """Random text that a wrong encoding would change: quotes, line breaks, characters of all planes."""
    pool = [
        "plain",
        "Grüße",
        "日本語",
        "🦉",
        '"quoted"',
        "back\\slash",
        "a\tb",
        "new\nline",
        "naïve",
        "\u2028",
        "<b>",
        "'",
    ]
    return " ".join(rng.choice(pool) for _ in range(rng.randint(2, 8)))


class Client:
    """An app in a conversation: it resends all its history, a window of it, or none, streamed or not."""

    def __init__(self, number: int, rng: random.Random, ledger: Ledger, *, remembered: int = 12) -> None:
        """`remembered` is the number of messages after which it forgets the oldest."""
        self.number, self._rng, self._ledger, self._remembered = number, rng, ledger, remembered
        self._scope = (f"partition-{number % 4}", f"client-{number}")
        self.history: list[str] = []  # JSON texts of both sides' messages
        self._count = 0

    def pause(self, seconds: float) -> float:
        """A random pause, `seconds` long on average."""
        return self._rng.expovariate(1 / seconds)

    def window(self) -> int:
        """How many messages to resend."""
        return self._rng.choice([0, 0, 4, len(self.history)])

    async def ask(self, http: httpx.AsyncClient, base_url: Callable[[str, str], str]) -> Asked:
        """Have one exchange. The ledger gets it before it begins."""
        self._count += 1
        question = f"{self.number}/{self._count} {words(self._rng)}"
        message = json.dumps({"role": "user", "content": question}, ensure_ascii=self._rng.random() < 0.5)
        one = Asked(self._scope, message, question)
        self._ledger.asked.append(one)
        window = self.window()
        stream = self._rng.random() < 0.5
        messages = ",".join([*self.history[len(self.history) - window :], message])
        body = f'{{"model":"gpt-4","stream":{str(stream).lower()},"messages":[{messages}]}}'
        begun = time.monotonic()
        with suppress(httpx.TransportError):
            headers = {"Content-Type": "application/json"}
            if self._rng.random() < 0.2:  # otherwise one worker would keep all connections
                headers["Connection"] = "close"
            url = f"{base_url(*self._scope)}/chat/completions"
            async with http.stream("POST", url, content=body.encode(), headers=headers) as response:
                one.trace_id = response.headers.get("x-reservoir-trace-id", "")
                one.memory = response.headers.get("x-reservoir-memory", "")
                data = await response.aread()
                if response.status_code == 200:
                    one.answer = streamed_text(data) if stream else whole_text(data)
        one.seconds = time.monotonic() - begun
        if one.answer is None:
            # Resending a history without this exchange would edit it, and so fork the conversation.
            self.history = []
        else:
            assert one.answer == f"You said: {question}", "the client got another client's answer"
            self.history += [message, json.dumps({"role": "assistant", "content": one.answer})]
            self.history = self.history[-self._remembered :]
        return one


def whole_text(data: bytes) -> str:
    text: str = json.loads(data)["choices"][0]["message"]["content"]
    return text


def streamed_text(data: bytes) -> str | None:
    """The text of a stream, or None if its end is missing."""
    events = [line.removeprefix(b"data: ") for line in data.split(b"\n") if line.startswith(b"data: ")]
    if not events or events[-1] != b"[DONE]":
        return None
    choices = [json.loads(event)["choices"] for event in events[:-1]]
    return "".join(choice[0]["delta"].get("content") or "" for choice in choices if choice)


async def load(
    base_url: Callable[[str, str], str],
    *,
    seed: int,
    clients: int,
    until: Callable[[Ledger], bool],
    ledger: Ledger,
    rate: float | None = None,
    first: int = 0,
) -> None:
    """Run clients that ask one question after the other until `until` returns True.

    `rate` limits all clients together, in exchanges a second. Clients are numbered from `first`; runs that share
    a ledger need distinct numbers, because equal numbers could produce equal questions.
    """
    numbers = range(first, first + clients)
    them = [Client(number, random.Random(f"{seed}/{number}"), ledger) for number in numbers]
    await run_clients(them, base_url, until=until, ledger=ledger, rate=rate)


async def run_clients(
    clients: Sequence[Client],
    base_url: Callable[[str, str], str],
    *,
    until: Callable[[Ledger], bool],
    ledger: Ledger,
    rate: float | None = None,
) -> None:
    """Run these clients as `load` does."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=len(clients))
    async with httpx.AsyncClient(trust_env=False, timeout=ASK_SECONDS, limits=limits) as http:

        async def run(client: Client) -> None:
            while not until(ledger):
                if rate:
                    await asyncio.sleep(client.pause(len(clients) / rate))
                if (await client.ask(http, base_url)).answer is None:
                    await asyncio.sleep(0.2)

        await asyncio.gather(*map(run, clients))
