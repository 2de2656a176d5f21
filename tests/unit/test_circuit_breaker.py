"""The circuit breaker: when it probes the database, and what it concludes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, Self

import pytest

from proxy.database import circuit_breaker
from proxy.database.circuit_breaker import CircuitBreaker, answers

ENOUGH = 300.0  # seconds; an ample bound for immediate events


class Database:
    """A database that is up or down and counts its probes."""

    def __init__(self) -> None:
        self.up = True
        self.asked = 0

    async def probe(self) -> bool:
        self.asked += 1
        return self.up


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit_breaker, "PROBE_SECONDS", 0.02)


@pytest.fixture
def database() -> Database:
    return Database()


@pytest.fixture
def breaker(database: Database) -> CircuitBreaker:
    return CircuitBreaker(database.probe)


async def in_time(waiting: Awaitable[None]) -> None:
    async with asyncio.timeout(ENOUGH):
        await waiting


async def test_a_healthy_database_is_not_probed(breaker: CircuitBreaker, database: Database) -> None:
    await in_time(breaker.watch(0.01))
    assert (breaker.is_open, database.asked) == (False, 0)


async def test_a_false_alarm_leaves_it_closed(breaker: CircuitBreaker, database: Database) -> None:
    breaker.suspect()
    await in_time(breaker.watch(ENOUGH * 2))
    assert (breaker.is_open, database.asked) == (False, 1)
    await in_time(breaker.watch(0.01))
    assert database.asked == 1, "a suspicion is looked into once"


async def test_a_suspicion_ends_the_current_wait(breaker: CircuitBreaker, database: Database) -> None:
    watching = asyncio.create_task(breaker.watch(ENOUGH * 2))
    await asyncio.sleep(0.01)
    assert not watching.done()
    breaker.suspect()
    await in_time(watching)
    assert database.asked == 1


async def test_a_confirmed_suspicion_opens_it(
    breaker: CircuitBreaker, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    database.up = False
    breaker.suspect()
    await in_time(breaker.watch(ENOUGH * 2))
    assert breaker.is_open
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_a_probe_that_fails_while_exchanges_are_stored_leaves_it_closed(
    breaker: CircuitBreaker, database: Database
) -> None:
    """A machine may be too busy to probe in time, and still store."""

    async def fail_while_storing() -> bool:
        breaker.confirm()
        return await database.probe()

    breaker = CircuitBreaker(fail_while_storing)
    database.up = False
    breaker.suspect()
    await in_time(breaker.watch(ENOUGH * 2))
    assert (breaker.is_open, database.asked) == (False, 1)


async def test_what_was_stored_before_the_probe_proves_nothing(breaker: CircuitBreaker, database: Database) -> None:
    database.up = False
    breaker.confirm()
    breaker.suspect()
    await in_time(breaker.watch(ENOUGH * 2))
    assert breaker.is_open


async def test_whoever_waits_for_the_database_is_told_once_that_it_opened(database: Database) -> None:
    told: list[bool] = []
    breaker = CircuitBreaker(database.probe, opened=lambda: told.append(True))
    breaker.trip()
    breaker.trip()
    assert told == [True]


async def test_tripping_opens_it_immediately_and_is_logged_once(
    breaker: CircuitBreaker, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    breaker.trip()
    assert (breaker.is_open, database.asked) == (True, 0)
    breaker.trip()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_an_open_breaker_probes_soon_and_closes_when_the_database_answers(
    breaker: CircuitBreaker, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    database.up = False
    breaker.trip()
    for asked in (1, 2, 3):  # the first probe comes at once; the others without further trips
        await in_time(breaker.watch(ENOUGH * 2))
        assert (breaker.is_open, database.asked) == (True, asked)
    database.up = True
    await in_time(breaker.watch(ENOUGH * 2))
    assert (breaker.is_open, database.asked) == (False, 4)
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.WARNING]
    await in_time(breaker.watch(0.01))
    assert database.asked == 4, "closed again, it goes back to waiting"


async def test_frequent_trips_do_not_stop_probing(
    breaker: CircuitBreaker, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuit_breaker, "PROBE_SECONDS", 0.1)
    database.up = False
    begun = asyncio.get_running_loop().time()
    for _ in range(3):
        breaker.trip()
        await in_time(breaker.watch(ENOUGH * 2))
    assert asyncio.get_running_loop().time() - begun > 0.25
    assert database.asked == 3


class Connecting:
    """Stands in for psycopg: lets in, refuses, or hangs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, connect: Callable[[], Awaitable[None]]) -> None:
        self.given: dict[str, Any] = {}
        self.executed: list[str] = []
        self.closed = False
        self.read_only = "off"
        self._connect = connect
        monkeypatch.setattr("proxy.database.circuit_breaker.AsyncConnection.connect", self.connect)

    async def connect(self, **given: Any) -> Self:
        self.given = given
        await self._connect()
        return self

    async def execute(self, query: str) -> Self:
        self.executed.append(query)
        return self

    async def fetchone(self) -> tuple[str]:
        return (self.read_only,)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.closed = True


async def let_in() -> None:
    pass


async def refuse() -> None:
    raise ConnectionRefusedError


async def hang() -> None:
    await asyncio.sleep(ENOUGH * 2)


async def test_a_database_that_accepts_and_answers_is_reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {"host": "db1,db2", "user": "me", "password": "mine", "target_session_attrs": "read-write"}
    params = wanted | {"cursor_factory": object(), "context": object()}
    monkeypatch.setattr(circuit_breaker, "connection", SimpleNamespace(get_connection_params=lambda: params))
    connecting = Connecting(monkeypatch, let_in)
    assert await answers()
    assert connecting.given == wanted | {"autocommit": True}
    assert connecting.executed == ["SHOW transaction_read_only"] and connecting.closed


async def test_a_replica_is_not_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    params = SimpleNamespace(get_connection_params=lambda: {})
    monkeypatch.setattr(circuit_breaker, "connection", params)
    connecting = Connecting(monkeypatch, let_in)
    connecting.read_only = "on"
    assert not await answers()


async def test_a_database_that_refuses_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    Connecting(monkeypatch, refuse)
    assert not await answers()


async def test_a_database_that_hangs_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    Connecting(monkeypatch, hang)
    async with asyncio.timeout(ENOUGH):
        assert not await answers()
