"""Limits across processes: each test runs several Quotas, as server processes have them, on one real PostgreSQL."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection

from access import metering
from access.audit import Who
from access.keys import limit_partition
from access.limits import Limits, batch
from proxy.admission.caller import Caller
from proxy.admission.keyring import THREADS, Keyring
from proxy.admission.quotas import SYNC_SECONDS, Quotas
from proxy.errors import RateLimited
from proxy.prompt.chat import Reply

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def one_minute() -> None:
    """Tests count within one minute: wait for the next one if this one ends soon. Keys are new in every test."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT extract(second FROM now())")
        (second,) = cursor.fetchone() or (0,)
    if second > 40:
        time.sleep(61 - float(second))


@asynccontextmanager
async def processes(number: int, *, slots: int = 1000) -> AsyncIterator[list[Quotas]]:
    keyrings = [Keyring() for _ in range(number)]
    made = [Quotas(keyring, slots=slots) for keyring in keyrings]
    for one in made:
        one.start()
    try:
        yield made
    finally:
        for one, keyring in zip(made, keyrings, strict=True):
            await one.stop()
            together = threading.Barrier(THREADS)
            await asyncio.gather(*(keyring.ask(partial(close, together)) for _ in range(THREADS)))
            await asyncio.to_thread(keyring.stop, 5)


def close(together: threading.Barrier) -> None:
    """Close the connection of each thread: none takes two of these."""
    together.wait()
    connection.close()


def caller(**limits: Any) -> Caller:
    return Caller(key_id=uuid.uuid4().hex[:12], limits=Limits(**limits))


async def request(quotas: Quotas, who: Caller, closing: AsyncExitStack, partition: str | None = None) -> bool:
    try:
        await quotas.admit(who, partition, closing)
    except RateLimited:
        return False
    return True


async def admitted(quotas: list[Quotas], who: Caller, number: int, partition: str | None = None) -> int:
    """How many of this many requests, spread over all processes and ended at once, are admitted."""

    async def one(at: int) -> bool:
        async with AsyncExitStack() as closing:
            return await request(quotas[at % len(quotas)], who, closing, partition)

    return sum(await asyncio.gather(*(one(at) for at in range(number))))


async def test_all_processes_together_admit_no_more_requests_than_the_limit(one_minute: None) -> None:
    async with processes(3) as quotas:
        for limit in (1, 7, 60):
            who = caller(requests=limit)
            count = await admitted(quotas, who, 3 * limit + 30)
            assert limit - 2 * batch(limit) <= count <= limit


async def test_a_refusal_says_when_to_come_again() -> None:
    async with processes(1) as (quotas,), AsyncExitStack() as closing:
        who = caller(requests=1)
        assert await request(quotas, who, closing)
        with pytest.raises(RateLimited) as refused:
            await quotas.admit(who, None, closing)
        assert 1 <= int(dict(refused.value.headers)[b"retry-after"]) <= 60
        assert told(quotas, who)["remaining-requests"] == "0"
        assert b"rate_limit_exceeded" in refused.value.body()


def told(quotas: Quotas, who: Caller, partition: str | None = None) -> dict[str, str]:
    headers = quotas.headers(who, partition)
    return {name.decode().removeprefix("x-ratelimit-"): value.decode() for name, value in headers}


async def test_answers_tell_what_is_left_of_each_limit(one_minute: None) -> None:
    async with processes(1) as (quotas,), AsyncExitStack() as running:
        who = caller(requests=100, tokens=1000)
        for used in range(1, 8):
            assert await request(quotas, who, running)
            assert told(quotas, who)["remaining-requests"] == str(100 - used)
        assert told(quotas, who)["remaining-tokens"] == "1000"
        quotas.charge(who, "shop", lambda _: None, 0, answer(60))
        quotas.spend(who, "shop", lambda _: None, {"prompt_tokens": 7, "total_tokens": 7})
        found = told(quotas, who)
        assert (found["limit-requests"], found["limit-tokens"]) == ("100", "1000")
        assert found["remaining-tokens"] == "933"
        for kind in ("requests", "tokens"):
            assert found[f"reset-{kind}"].endswith("s") and 1 <= int(found[f"reset-{kind}"][:-1]) <= 60
        assert told(quotas, caller()) == {}
        alone = caller(parallel=2)
        assert await request(quotas, alone, running)
        assert told(quotas, alone) == {}


async def test_what_is_left_counts_what_other_processes_have_taken(one_minute: None) -> None:
    async with processes(2) as (one, other), AsyncExitStack() as running:
        who = caller(requests=20)
        assert await admitted([one], who, 12) == 12
        assert await request(other, who, running)
        assert told(other, who)["remaining-requests"] == "7"


async def test_parallel_requests_are_counted_exactly_over_all_processes() -> None:
    async with processes(3) as quotas, AsyncExitStack() as running:
        who = caller(parallel=5)
        results = await asyncio.gather(*(request(quotas[at % 3], who, running) for at in range(30)))
        assert sum(results) == 5
        await running.aclose()
        await eventually(lambda: all_free(quotas, who))


async def all_free(quotas: list[Quotas], who: Caller) -> bool:
    """Whether one process alone gets all slots: the others have given theirs back."""
    async with AsyncExitStack() as running:
        return all([await request(quotas[0], who, running) for _ in range(5)])


async def eventually(condition: Callable[[], Any]) -> None:
    for _ in range(3000):
        if await condition():
            return
        await asyncio.sleep(0.1)
    raise AssertionError


def test_the_slots_of_a_process_that_died_become_free() -> None:
    subject, dead, alive = f"key:{uuid.uuid4().hex}", uuid.uuid4(), uuid.uuid4()
    assert metering.lease(subject, dead, slots=3, limit=3)
    assert not metering.lease(subject, alive, slots=1, limit=3)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE access_lease SET expires = now() - interval '1 second' WHERE holder = %s", [dead])
    assert metering.lease(subject, alive, slots=3, limit=3)


def test_leases_taken_at_the_same_moment_do_not_exceed_the_limit() -> None:
    subject = f"key:{uuid.uuid4().hex}"

    def take(_: int) -> bool:
        try:
            return metering.lease(subject, uuid.uuid4(), slots=1, limit=4)
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(take, range(24))) == 4


def answer(tokens: int) -> Any:
    return SimpleNamespace(reply=Reply(usage={"prompt_tokens": tokens // 2, "completion_tokens": tokens - tokens // 2}))


@pytest.mark.parametrize("limits", [{"tokens": 100}, {"dollars": Decimal("0.10")}])
async def test_what_runs_when_a_budget_is_used_up_still_counts_and_then_all_processes_refuse(
    limits: dict[str, Any],
) -> None:
    who = caller(**limits)
    async with processes(2) as quotas, AsyncExitStack() as running:
        for one in quotas:  # four run at the same time
            assert await request(one, who, running)
            assert await request(one, who, running)
        for one in quotas:
            one.charge(who, "shop", lambda _: Decimal("0.06"), 0, answer(60))
        await asyncio.sleep(2 * SYNC_SECONDS)
        for one in quotas:  # each has used less than the limit, together they have used more

            async def is_refused(one: Quotas = one) -> bool:
                return not await request(one, who, running)

            await eventually(is_refused)


async def test_an_answer_without_usage_is_estimated() -> None:
    who = caller(tokens=100)
    async with processes(1) as (quotas,), AsyncExitStack() as running:
        assert await request(quotas, who, running)
        reply = Reply(messages=(SimpleNamespace(raw="x" * 400),))  # type: ignore[arg-type]
        quotas.charge(who, "shop", lambda _: None, 400, SimpleNamespace(reply=reply))
        assert not await request(quotas, who, running)


async def test_no_key_holds_more_than_its_share_of_the_servers_slots() -> None:
    async with processes(1, slots=10) as (quotas,), AsyncExitStack() as running:
        one, other = caller(), caller()
        assert sum([await request(quotas, one, running) for _ in range(10)]) == 5
        assert await request(quotas, other, running)


async def test_the_keys_of_a_partition_share_its_limit(one_minute: None) -> None:
    partition = f"shop {uuid.uuid4().hex}"

    def set_limit() -> None:
        limit_partition(partition, Limits(requests=10), Who(actor="tester"))
        connection.close()

    await asyncio.to_thread(set_limit)
    async with processes(2) as quotas:

        async def limit_is_known() -> bool:
            known = [one._limits_of(partition) for one in quotas]  # asks all of them
            return all(known)

        await eventually(limit_is_known)
        counts = [await admitted(quotas, caller(), 20, partition) for _ in range(2)]
        assert sum(counts) <= 10


async def test_a_process_holds_to_the_limits_by_itself_while_the_database_does_not_answer() -> None:
    async with processes(1) as (quotas,):
        quotas._keyring._paused_until = float("inf")  # as after a failure, for good
        try:
            assert 1 <= await admitted([quotas], caller(requests=20), 100) <= 20
            async with AsyncExitStack() as running:
                slow = caller(parallel=2)
                assert sum([await request(quotas, slow, running) for _ in range(3)]) == 2
        finally:
            quotas._keyring._paused_until = 0.0
