"""Clients whose every word is known, and the ledger of what they saw.

Every question is a text that is said once in the world, and the provider repeats it, so that what is stored can be
compared to the byte with what a client sent and read.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import httpx

ASK_SECONDS = 300  # a client that waits longer has found a fault


@dataclass
class Asked:
    """One exchange as its client saw it. `answer` is None where it did not get all of it."""

    scope: tuple[str, str]
    message: str  # the JSON text of the question
    question: str
    trace_id: str = ""
    memory: str = ""
    answer: str | None = None
    seconds: float = 0.0


@dataclass
class Ledger:
    """What clients asked and read."""

    asked: list[Asked] = field(default_factory=list)

    @property
    def answered(self) -> list[Asked]:
        return [one for one in self.asked if one.answer is not None]


def words(rng: random.Random) -> str:
    """Text that no encoding on the way leaves alone unless it is right: quotes, line breaks, all planes."""
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
    """An app with a conversation: it resends its history, a window of it, or none; streamed or not."""

    def __init__(self, number: int, rng: random.Random, ledger: Ledger) -> None:
        self._number, self._rng, self._ledger = number, rng, ledger
        self._scope = (f"partition-{number % 4}", f"client-{number}")
        self._history: list[str] = []  # JSON texts of what it was told and said
        self._count = 0

    def pause(self, seconds: float) -> float:
        """How long it thinks: now more, now less, so many seconds on average."""
        return self._rng.expovariate(1 / seconds)

    async def ask(self, http: httpx.AsyncClient, base_url: Callable[[str, str], str]) -> Asked:
        """One exchange, entered in the ledger before it begins."""
        self._count += 1
        question = f"{self._number}/{self._count} {words(self._rng)}"
        message = json.dumps({"role": "user", "content": question}, ensure_ascii=self._rng.random() < 0.5)
        one = Asked(self._scope, message, question)
        self._ledger.asked.append(one)
        window = self._rng.choice([0, 0, 4, len(self._history)])
        stream = self._rng.random() < 0.5
        messages = ",".join([*self._history[len(self._history) - window :], message])
        body = f'{{"model":"gpt-4","stream":{str(stream).lower()},"messages":[{messages}]}}'
        begun = time.monotonic()
        with suppress(httpx.TransportError):
            headers = {"Content-Type": "application/json"}
            if self._rng.random() < 0.2:  # else one worker is left with all connections
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
            # Left out of the history that it resends, it would be an edit of that history, hence a fork.
            self._history = []
        else:
            assert one.answer == f"You said: {question}", "the client got somebody else's answer"
            self._history += [message, json.dumps({"role": "assistant", "content": one.answer})]
            self._history = self._history[-12:]
        return one


def whole_text(data: bytes) -> str:
    text: str = json.loads(data)["choices"][0]["message"]["content"]
    return text


def streamed_text(data: bytes) -> str | None:
    """What a stream says, None unless it came to its end."""
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
    """Clients that ask one question after the other until told to stop; all together `rate` a second, if given.

    They are numbered from `first` on: who has another's number may by chance say the same.
    """
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=clients)
    async with httpx.AsyncClient(trust_env=False, timeout=ASK_SECONDS, limits=limits) as http:

        async def run(number: int) -> None:
            client = Client(number, random.Random(f"{seed}/{number}"), ledger)
            while not until(ledger):
                if rate:
                    await asyncio.sleep(client.pause(clients / rate))
                if (await client.ask(http, base_url)).answer is None:
                    await asyncio.sleep(0.2)

        await asyncio.gather(*(run(number) for number in range(first, first + clients)))
