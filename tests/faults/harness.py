"""A load of known exchanges, things that break meanwhile, and the ledger of what clients saw.

Every question is a text that is said once in the world, and the provider repeats it, so that what is stored can be
compared to the byte with what a client sent and read.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import random
import resource
import signal
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, LiteralString

import httpx
import psycopg

from reservoir_site.postgres import embedded_location
from tests.server import Server

KEY = "sk-never-to-be-written-down"
ROOM = 2**20  # bytes of each file on a full disk: less than the log of changes has after the first migrations
ASK_SECONDS = 30  # a client that waits longer has found a fault


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


class App:
    """An app without history, in a scope of its own."""

    def __init__(self, server: Server, *, database: Path | None = None) -> None:
        """`database` is the home of the PostgreSQL that stores what is said, if not the server's own."""
        self.server = server
        self._database = database or server.home
        self.scope = (f"partition-{uuid.uuid4().hex[:12]}", "app")
        self.ask("warm")

    def ask(self, text: str, *, stream: bool = False) -> httpx.Response:
        body = {"model": "some-model", "stream": stream, "messages": [{"role": "user", "content": text}]}
        url = f"{self.server.base_url(*self.scope)}/chat/completions"
        answer = httpx.post(url, json=body, headers={"Authorization": f"Bearer {KEY}"}, trust_env=False, timeout=30)
        assert answer.status_code == 200, answer.text
        assert "You" in answer.text
        return answer

    def memory(self, text: str) -> str:
        """What the answer to a question says of its memory."""
        state: str = self.ask(text).headers["x-reservoir-memory"]
        return state

    def timed(self, text: str, *, stream: bool = False) -> float:
        """How long an answer takes, in milliseconds."""
        begun = time.perf_counter()
        self.ask(text, stream=stream)
        return (time.perf_counter() - begun) * 1000

    def said(self) -> list[str]:
        """What was said here, in the order that it was stored."""
        found = rows(
            self._database,
            """SELECT m.content FROM conversations_message m JOIN conversations_instance i ON i.id = m.instance_id
               JOIN conversations_partition p ON p.id = i.partition_id
               WHERE p.name = %s AND i.name = %s AND m.role = 'user' ORDER BY m.id""",
            *self.scope,
        )
        return [content for (content,) in found]


def recovered(server: Server) -> None:
    """Wait until the database is asked again, and the spool is empty."""
    eventually(lambda: waiting(server.home) == 0)
    eventually(lambda: httpx.get(f"{server.url}/ready", trust_env=False, timeout=10).status_code == 200)


# --- breaking things ----------------------------------------------------------------------------------


def postmaster(home: Path) -> int | None:
    """The process id of the home's PostgreSQL, if there is one."""
    try:
        pid = int((home / "postgres" / "data" / "postmaster.pid").read_text().split()[0])
    except (FileNotFoundError, ValueError, IndexError):
        return None
    return pid if b"postgres" in command_line(pid) else None


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def workers(server: Server) -> list[int]:
    """The processes that serve: those of uvicorn's supervisor, or the server's own."""
    assert server.process
    spawned = [pid for pid in children(server.process.pid) if b"spawn_main" in command_line(pid)]
    return spawned or [server.process.pid]


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def resident(pid: int) -> int:
    """Bytes of memory that a process holds; 0 where it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, ProcessLookupError):
        return 0


def open_files(pid: int) -> int:
    """How many descriptors a process holds; 0 where it is gone."""
    try:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except (FileNotFoundError, ProcessLookupError):
        return 0


def kill(pid: int) -> bool:
    """kill -9; whether it was there (0 is nobody, not the process group that it means to the system)."""
    if not pid:
        return False
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """A process and its children stand still: they are there, and answer nothing."""
    with standing_still([pid, *children(pid)]):
        yield


@contextmanager
def standing_still(family: list[int]) -> Iterator[list[int]]:
    """These processes stand still. Yields those that do."""
    for one in family:
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGSTOP)
    try:
        yield [one for one in family if command_line(one)]
    finally:
        for one in reversed(family):
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGCONT)


@contextmanager
def postgres_away(home: Path) -> Iterator[None]:
    """PostgreSQL is killed, and nobody can start it again before the end."""
    with (home / "postgres" / "lifecycle.lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert kill(postmaster(home) or 0)
        yield


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Every table is locked as a migration locks it."""
    where = embedded_location(home)
    with psycopg.connect(host=where.host, port=where.port, user=where.user, dbname=where.dbname) as connection:
        connection.execute("LOCK TABLE conversations_message, conversations_exchange, conversations_instance")
        yield


@contextmanager
def no_room(server: Server) -> Iterator[None]:
    """PostgreSQL finds its disk full, whenever it is started.

    Instead it gets a limit of how large a file may grow, which PostgreSQL is made to treat alike: what it writes beyond
    that is refused, above all its log of changes, so that it ends. It has the limit of the server, which starts it.
    """
    assert server.process
    kept = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (ROOM, kept[1]))
    kill(postmaster(server.home) or 0)
    try:
        yield
    finally:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, kept)
        kill(postmaster(server.home) or 0)


class Chaos:
    """Kills what serves and what stores, on a schedule from a seed: every so many answered exchanges, about.

    With `recovered`, only once clients are told again that their memory is on: what is killed is then in use.
    """

    def __init__(self, server: Server, ledger: Ledger, *, seed: int, every: int, recovered: bool = False) -> None:
        self.killed: Counter[str] = Counter()
        self._server = server
        self._ledger = ledger
        self._rng = random.Random(seed)
        self._every = every
        self._recovered = recovered
        self._ways = {"worker": self._worker, "postmaster": self._postmaster, "backend": self._backend}

    @property
    def kills(self) -> int:
        return self.killed.total()

    async def run(self, until: Callable[[], bool]) -> None:
        """Break something now and then; the whole server every eighth time."""
        while not until():
            # Now and then right after the last time, into the middle of a recovery.
            due = len(self._ledger.answered) + int(self._every * self._rng.choice([0.1, 0.9, 1.0, 1.5]))
            while not (self._is_due(due) or until()):  # noqa: ASYNC110 - it is a list, not an event
                await asyncio.sleep(self._rng.uniform(0.05, 0.15))
            if self.kills % 8 == 5:
                for pid in workers(self._server):
                    kill(pid)
                self._server.kill()
                self.killed["server"] += 1
                await asyncio.to_thread(self._server.start)
            else:
                name = self._rng.choice(list(self._ways))
                self.killed[name] += self._ways[name]()

    def _is_due(self, count: int) -> bool:
        answered = self._ledger.answered
        return len(answered) >= count and (answered[-1].memory == "on" or not self._recovered)

    def _worker(self) -> bool:
        pids = workers(self._server)
        return len(pids) > 1 and kill(self._rng.choice(pids))

    def _postmaster(self) -> bool:
        pid = postmaster(self._server.home)
        return pid is not None and kill(pid)

    def _backend(self) -> bool:
        """One of PostgreSQL's processes, whereupon it throws out everybody and recovers."""
        pids = children(postmaster(self._server.home) or 0)
        return bool(pids) and kill(self._rng.choice(pids))


def report(figures: str) -> None:
    """Figures for whoever watches (`pytest -s`)."""
    print(f"\n{figures}", file=sys.stderr)


def eventually(holds: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.02)


# --- what is left -------------------------------------------------------------------------------------


def rows(home: Path, query: LiteralString, *parameters: object) -> list[tuple[Any, ...]]:
    """Ask the home's PostgreSQL."""
    where = embedded_location(home)
    with psycopg.connect(host=where.host, port=where.port, user=where.user, dbname=where.dbname) as connection:
        return connection.execute(query, parameters).fetchall()


def waiting(home: Path) -> int:
    """Segments of the spool that hold something."""
    return sum(1 for path in (home / "spool").glob("*.spool") if path.stat().st_size)


async def settled(home: Path, seconds: float = 180) -> None:
    """Wait until the spool has been replayed."""
    deadline = time.monotonic() + seconds
    while waiting(home):
        assert time.monotonic() < deadline, f"{waiting(home)} segments of the spool are still there"
        await asyncio.sleep(0.1)


def differences(home: Path, ledger: Ledger) -> list[str]:
    """Where what is stored is not what clients saw: each answered exchange once, byte for byte; no turn twice."""
    exchanges = Counter(str(trace_id) for (trace_id,) in rows(home, "SELECT trace_id FROM conversations_exchange"))
    stored = {
        str(trace_id): (ended, question, answers)
        for trace_id, ended, question, answers in rows(
            home,
            """SELECT e.trace_id, e.ended, q.payload,
                      (SELECT array_agg(m.content ORDER BY m.id) FROM conversations_message m
                       WHERE m.exchange_id = e.id AND m.role = 'assistant' AND m.created = e.finished)
               FROM conversations_exchange e LEFT JOIN conversations_message q ON q.id = e.question_id""",
        )
    }
    turns = Counter(
        ((partition, instance), role, content)
        for partition, instance, role, content in rows(
            home,
            """SELECT p.name, i.name, m.role, m.content FROM conversations_message m
               JOIN conversations_instance i ON i.id = m.instance_id
               JOIN conversations_partition p ON p.id = i.partition_id""",
        )
    )
    found = []
    for one in ledger.answered:
        name = f"{one.scope[1]} {one.question.split()[0]} ({one.trace_id}, memory {one.memory})"
        if exchanges[one.trace_id] != 1:
            found.append(f"{name}: {exchanges[one.trace_id]} exchanges are stored")
            continue
        ended, question, answers = stored[one.trace_id]
        if ended != "answered":
            found.append(f"{name}: ended as {ended}")
        if question != one.message:
            found.append(f"{name}: the question is stored as {question!r}")
        if answers != [one.answer]:
            found.append(f"{name}: the answer is stored as {answers!r}")
    for one in ledger.asked:
        for role, text in (("user", one.question), ("assistant", f"You said: {one.question}")):
            times = turns.pop((one.scope, role, text), 0)
            if times > 1 or (times < 1 and one.answer is not None):
                found.append(f"{one.scope[1]} {one.question.split()[0]}: the {role}'s turn is stored {times} times")
    # What is left are answers that broke off: beginnings of what some client was told.
    begun = {(one.scope, f"You said: {one.question}") for one in ledger.asked if one.answer is None}
    for (scope, role, text), times in turns.items():
        if role != "assistant" or not any(s == scope and whole.startswith(text) for s, whole in begun):
            found.append(f"{scope[1]}: nobody said {text!r} as {role} ({times} times)")
    return found
