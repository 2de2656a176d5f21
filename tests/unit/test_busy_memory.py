"""The memory service when more requests come than threads can serve: they wait, and beyond a bound they are refused."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from proxy.database.thread_pool import ThreadPool
from proxy.errors import Overloaded
from proxy.memory import service as module
from proxy.memory.service import STORE_THREADS, MemoryService, Scope, StoredIn

ENOUGH = 300.0  # seconds; an ample bound for immediate events
SCOPE = Scope("busy", "memory")


@pytest.fixture
async def service(settings: Any, tmp_path: Path) -> AsyncIterator[MemoryService]:
    settings.RESERVOIR_HOME = tmp_path
    made = MemoryService()
    yield made
    for pool in (made._recalling, made._storing, made._replaying, made._checking):
        await asyncio.to_thread(pool.stop, ENOUGH)


def never() -> NoReturn:
    raise AssertionError("the spool was asked")


async def store(service: MemoryService, work: Callable[[], Any], seconds: float) -> StoredIn:
    return await service.store(work, never, scope=SCOPE, trace_id=uuid.uuid4(), seconds=seconds)


async def queued(pool: ThreadPool, number: int) -> None:
    async with asyncio.timeout(ENOUGH):
        while pool._queue.qsize() < number:  # noqa: ASYNC110 - the pool has no event for it
            await asyncio.sleep(0.001)


async def test_an_exchange_that_waits_for_a_thread_is_not_spooled(service: MemoryService) -> None:
    go = threading.Event()
    running = [asyncio.create_task(store(service, lambda: go.wait(ENOUGH), ENOUGH)) for _ in range(STORE_THREADS)]
    waiting = asyncio.create_task(store(service, lambda: None, 0.01))
    await queued(service._storing, 1)
    await asyncio.sleep(0.1)  # ten times its deadline
    assert not waiting.done()
    go.set()
    assert [await task for task in (*running, waiting)] == [StoredIn.DATABASE] * (STORE_THREADS + 1)


async def test_requests_beyond_what_the_machine_can_do_are_refused_and_told_when_to_come_back(
    service: MemoryService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_WAIT", 0.1)
    go = threading.Event()
    await store(service, lambda: time.sleep(0.1), ENOUGH)  # what storing takes
    service.admit()
    tasks = [asyncio.create_task(store(service, lambda: go.wait(ENOUGH), ENOUGH)) for _ in range(STORE_THREADS + 200)]
    await queued(service._storing, 200)
    with pytest.raises(Overloaded) as refusal:
        service.admit()
    assert refusal.value.status == 503
    assert int(dict(refusal.value.headers)[b"retry-after"]) >= 1
    assert json.loads(refusal.value.body())["error"]["code"] == "overloaded"
    go.set()
    assert {await task for task in tasks} == {StoredIn.DATABASE}
    service.admit()


async def test_a_replay_rests_while_questions_come_and_no_longer(
    service: MemoryService, monkeypatch: pytest.MonkeyPatch
) -> None:
    rested: list[float] = []
    clock = [1000.0]

    def sleep(seconds: float) -> None:
        rested.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    service._give_way(10)
    assert not rested
    service._recalled = clock[0]
    service._give_way(10)
    assert sum(rested) == pytest.approx(module.QUESTIONS_COME_SECONDS, abs=0.02)  # no other question came
    rested.clear()
    monkeypatch.setattr(module, "QUESTIONS_COME_SECONDS", 100)
    service._give_way(0.1)
    assert sum(rested) == pytest.approx(0.1 * module.REPLAY_RESTS, abs=0.02)
