"""Two servers with spools of their own behind HAProxy: histories are exact, whatever waited where.

FAULTS_EXCHANGES=1000 script/test tests/faults/test_round_robin.py -s
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest

from reservoir_site.postgres import EmbeddedPostgres
from reservoir_site.postgres_folder import embedded_location
from tests.fake_provider.provider import FakeProvider
from tests.faults.breaking import frozen, postgres_down
from tests.faults.clients import Asked, Client, Ledger, run_clients
from tests.faults.stored import rows, settled, waiting
from tests.faults.watching import postmaster, report
from tests.haproxy import PROGRAM, HAProxy
from tests.server import PATIENT, Server

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(not PROGRAM, reason="needs HAProxy: apt-get install haproxy"),
]

CLIENTS = 10
EXCHANGES = int(os.environ.get("FAULTS_EXCHANGES", "150"))
RATE = 12.0  # exchanges a second


class Site(NamedTuple):
    """Two servers, what stands in front of them, and the home of their database."""

    servers: list[Server]
    balancer: HAProxy
    database: Path
    postgres: EmbeddedPostgres


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    database = tmp_path / "database"
    with ExitStack() as running:
        provider = running.enter_context(FakeProvider(word_delay=0.002))
        postgres = EmbeddedPostgres(database)
        postgres.hold()
        running.callback(postgres.release)
        where = embedded_location(database)
        url = f"host={where.host} port={where.port} user={where.user} dbname={where.dbname}"
        settings = PATIENT | {
            "RESERVOIR_RECALL_DEADLINE_MS": "1000",
            "RESERVOIR_SECRET_KEY": "the same on both hosts",
            "RESERVOIR_EMBEDDER": f"{provider.base_url}#small",
            "RESERVOIR_EMBEDDER_DIMENSIONS": "1536",
        }
        servers = [
            running.enter_context(Server(tmp_path / name, provider.base_url, database_url=url, settings=settings))
            for name in ("first", "second")
        ]
        balancer = running.enter_context(HAProxy(tmp_path, [server.port for server in servers]))
        yield Site(servers, balancer, database, postgres)


class Steady(Client):
    """An app that always resends its whole history, or never does."""

    def window(self) -> int:
        return len(self.history) if self.number % 2 else 0


async def test_histories_are_exact_whatever_waited_in_which_spool(site: Site) -> None:
    seed = int(os.environ.get("FAULTS_SEED") or random.randrange(2**32))
    ledger = Ledger()
    clients = [Steady(number, random.Random(f"{seed}/{number}"), ledger, remembered=10**6) for number in range(CLIENTS)]
    breaking = asyncio.ensure_future(break_things(site, ledger))

    def done(_: Ledger) -> bool:
        return len(ledger.answered) >= EXCHANGES and breaking.done()

    await asyncio.gather(run_clients(clients, site.balancer.base_url, until=done, ledger=ledger, rate=RATE), breaking)
    for server in site.servers:
        server.wait_until_ready()
        await settled(server.home)
    memory = Counter(one.memory for one in ledger.answered)
    report(
        f"seed {seed}: {len(ledger.asked)} asked, {len(ledger.answered)} answered (memory {dict(memory)}), "
        f"{breaking.result()} segments were in the killed server's spool"
    )
    found = wrong(site.database, ledger)
    assert not found, f"FAULTS_SEED={seed} shows it again: {len(found)} differences, such as {found[:5]}"
    assert memory["degraded"] and memory["on"], "nothing broke, or it was all one outage"


async def break_things(site: Site, ledger: Ledger) -> int:
    """Stop and slow the database, then kill a server during an outage and start it again later.

    Returns the number of segments that were in its spool.
    """
    victim = site.servers[1]

    async def reached(share: float) -> None:
        while len(ledger.answered) < EXCHANGES * share:  # noqa: ASYNC110 - it is a list, not an event
            await asyncio.sleep(0.05)

    async def more(count: int) -> None:
        wanted = len(ledger.answered) + count
        while len(ledger.answered) < wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    await reached(0.1)
    with postgres_down(site.database):
        await more(CLIENTS)
    await asyncio.to_thread(site.postgres.ensure_running)

    await reached(0.3)
    with held_up(site.database):
        await more(CLIENTS)
    await reached(0.4)
    with frozen(postmaster(site.database) or 0):
        await more(CLIENTS)

    await reached(0.6)
    with postgres_down(site.database):
        await more(2 * CLIENTS)
        while not (segments := waiting(victim.home)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        victim.kill()
    await asyncio.to_thread(site.postgres.ensure_running)
    await more(max(2 * CLIENTS, EXCHANGES // 10))  # the other server goes on with the same conversations
    await asyncio.to_thread(victim.start)
    return segments


@contextmanager
def held_up(database: Path) -> Iterator[None]:
    """Storing and recall wait for a lock."""
    where = embedded_location(database)
    with psycopg.connect(host=where.host, port=where.port, user=where.user, dbname=where.dbname) as connection:
        connection.execute("LOCK TABLE conversations_message")
        yield


class Stored(NamedTuple):
    id: int
    role: str
    payload: str
    content: str
    parent: int | None
    abandoned: bool


def wrong(database: Path, ledger: Ledger) -> list[str]:
    """What is not exactly the conversation that a client had: each turn once, in order, in one line, alive."""
    wanted: dict[tuple[str, str], list[Asked]] = defaultdict(list)
    for one in ledger.asked:
        wanted[one.scope].append(one)
    stored: dict[tuple[str, str], list[Stored]] = defaultdict(list)
    for partition, instance, *message in rows(
        database,
        """SELECT p.name, i.name, m.id, m.role, m.payload, m.content, m.parent_id, m.abandoned
           FROM conversations_message m JOIN conversations_instance i ON i.id = m.instance_id
           JOIN conversations_partition p ON p.id = i.partition_id ORDER BY m.created, m.id""",
    ):
        stored[partition, instance].append(Stored(*message))
    found = [difference for scope in wanted for difference in _wrong_in(scope[1], wanted[scope], stored[scope])]
    traces = Counter(str(trace) for (trace,) in rows(database, "SELECT trace_id FROM conversations_exchange"))
    answered = {one.trace_id for one in ledger.answered}
    found += [f"{trace} is there {traces[trace]} times" for trace in answered if traces[trace] != 1]
    ended = rows(database, "SELECT trace_id, ended FROM conversations_exchange WHERE ended NOT IN ('answered', 'gone')")
    return found + [f"{trace} ended as {how}" for trace, how in ended if str(trace) in answered]


def _wrong_in(name: str, asked: list[Asked], stored: list[Stored]) -> Iterator[str]:
    """Exchanges that their client did not see to the end may be stored or not, and count as not there."""
    lost = {one.question for one in asked if one.answer is None}
    dropped = {m.id: m.parent for m in stored if m.content in lost or m.content.removeprefix("You said: ") in lost}
    dropped |= {
        m.id: m.parent for m in stored if any(f"You said: {question}".startswith(m.content) for question in lost)
    }
    kept = [message for message in stored if message.id not in dropped]
    said = [(one, turn) for one in asked if one.answer is not None for turn in ("user", "assistant")]
    if len(kept) != len(said):
        yield f"{name}: {len(said)} turns were said, {len(kept)} are stored"
    for at, ((one, role), message) in enumerate(zip(said, kept, strict=False)):
        text = one.question if role == "user" else one.answer
        what = f"{name} {one.question.split()[0]} {role} ({one.trace_id}, memory {one.memory})"
        if (message.role, message.content) != (role, text):
            yield f"{what}: in its place is {message.role} {message.content[:40]!r}"
            return
        if role == "user" and message.payload != one.message:
            yield f"{what}: stored as {message.payload!r}"
        if message.abandoned:
            yield f"{what}: abandoned"
        parent = message.parent
        while parent in dropped:
            parent = dropped[parent]
        if at and parent != kept[at - 1].id:
            yield f"{what}: its parent is not the turn before it"
