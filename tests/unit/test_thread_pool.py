"""The thread pool: deadlines that expire before, during and just after the work."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Iterator

import pytest

from proxy.database.thread_pool import DeadlineExceeded, ThreadPool

ENOUGH = 300.0  # seconds; an ample bound for immediate events


class Hanging:
    """Work that hangs until it is released."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        assert self.go.wait(ENOUGH)
        return "finished"

    async def until_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.wait, ENOUGH)


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    work = Hanging()
    yield work
    work.go.set()


def pool_of(size: int) -> ThreadPool:
    return ThreadPool("tested", size)


def held(pool: ThreadPool) -> int:
    """The number of threads held by late work."""
    return len(pool._late)


async def until_none_is_held(pool: ThreadPool) -> None:
    async with asyncio.timeout(ENOUGH):
        while held(pool):  # noqa: ASYNC110 - the pool has no event for it
            await asyncio.sleep(0.001)


async def test_work_runs_on_a_thread_of_the_pool_and_its_result_comes_back() -> None:
    pool = pool_of(1)
    assert await pool.run(lambda: threading.current_thread().name, ENOUGH) == "tested-0"
    assert held(pool) == 0


@pytest.mark.parametrize("error", [ValueError("of the work"), TimeoutError("of the work"), KeyboardInterrupt("odd")])
async def test_an_error_of_the_work_is_raised_unchanged(error: BaseException) -> None:
    def failing() -> None:
        raise error

    pool = pool_of(1)
    with pytest.raises(type(error), match=str(error)):
        await pool.run(failing, ENOUGH)
    assert await pool.run(lambda: "still serves", ENOUGH) == "still serves"


async def test_work_past_its_deadline_holds_one_thread_and_the_others_serve(hanging: Hanging) -> None:
    pool = pool_of(2)
    with pytest.raises(DeadlineExceeded):
        await pool.run(hanging, 0.01)
    await hanging.until_begun()
    assert held(pool) == 1
    assert [await pool.run(lambda: "served", ENOUGH) for _ in range(3)] == ["served"] * 3
    hanging.go.set()
    await until_none_is_held(pool)


async def test_work_is_refused_immediately_while_late_work_holds_every_thread(hanging: Hanging) -> None:
    pool = pool_of(2)
    for _ in range(2):
        hanging.begun.clear()
        running = asyncio.create_task(pool.run(hanging, None))
        await hanging.until_begun()
        running.cancel()  # a client that leaves counts like an expired deadline
        with pytest.raises(asyncio.CancelledError):
            await running
    assert held(pool) == 2
    ran = threading.Event()
    with pytest.raises(DeadlineExceeded):
        await pool.run(ran.set, None)  # without a deadline, it would wait as long as the others hang
    hanging.go.set()
    await until_none_is_held(pool)
    assert await pool.run(lambda: "serves again", ENOUGH) == "serves again"
    assert not ran.is_set()


async def test_work_that_waits_for_a_thread_is_not_late(hanging: Hanging) -> None:
    pool = pool_of(1)
    first = asyncio.create_task(pool.run(hanging, None))
    await hanging.until_begun()
    waiting = asyncio.create_task(pool.run(lambda: "served in its turn", 0.01))
    await asyncio.sleep(0.1)  # ten times its deadline
    assert not waiting.done()
    hanging.go.set()
    assert [await first, await waiting] == ["finished", "served in its turn"]


async def test_nobody_waits_for_a_thread_once_late_work_holds_them_all(hanging: Hanging) -> None:
    pool, ran = pool_of(1), threading.Event()
    late = asyncio.create_task(pool.run(hanging, 0.2))
    await hanging.until_begun()
    waiting = asyncio.create_task(pool.run(ran.set, None))  # without a deadline of its own
    for task in (late, waiting):
        with pytest.raises(DeadlineExceeded):
            await task
    hanging.go.set()
    await until_none_is_held(pool)
    assert await pool.run(lambda: "serves again", ENOUGH) == "serves again"
    assert not ran.is_set()


async def test_work_that_is_given_up_holds_its_thread_and_what_waits_is_dropped(hanging: Hanging) -> None:
    pool, ran = pool_of(1), threading.Event()
    running = asyncio.create_task(pool.run(hanging, None))
    await hanging.until_begun()
    waiting = asyncio.create_task(pool.run(ran.set, ENOUGH))
    await asyncio.sleep(0)
    pool.give_up()
    for task in (running, waiting):
        with pytest.raises(DeadlineExceeded):
            await task
    assert held(pool) == 1
    hanging.go.set()
    await until_none_is_held(pool)
    assert await pool.run(lambda: "serves again", ENOUGH) == "serves again"
    assert not ran.is_set()


async def test_slow_work_is_reported_once_while_it_runs(hanging: Hanging) -> None:
    reported = asyncio.Event()
    times = 0

    def slow() -> None:
        nonlocal times
        times += 1
        reported.set()

    pool = ThreadPool("tested", 1, slow=slow, slow_seconds=0.01)
    running = asyncio.create_task(pool.run(hanging, ENOUGH))
    async with asyncio.timeout(ENOUGH):
        await reported.wait()
    await asyncio.sleep(0.05)
    assert times == 1 and not running.done()
    hanging.go.set()
    assert await running == "finished"


async def test_the_wait_for_a_thread_is_estimated_from_what_work_took(hanging: Hanging) -> None:
    pool = pool_of(1)
    for _ in range(3):
        await pool.run(lambda: time.sleep(0.02), ENOUGH)
    assert pool.seconds_to_wait == 0, "nothing is waiting"
    running = asyncio.create_task(pool.run(hanging, None))
    await hanging.until_begun()
    waiting = [asyncio.create_task(pool.run(lambda: None, ENOUGH)) for _ in range(8)]
    await asyncio.sleep(0)
    estimated = pool.seconds_to_wait
    waiting += [asyncio.create_task(pool.run(lambda: None, ENOUGH)) for _ in range(8)]
    await asyncio.sleep(0)
    assert estimated > 0 and pool.seconds_to_wait == pytest.approx(2 * estimated)
    hanging.go.set()
    await asyncio.gather(running, *waiting)


async def test_work_whose_caller_has_left_never_starts(hanging: Hanging) -> None:
    pool = pool_of(1)
    first = asyncio.create_task(pool.run(hanging, None))
    await hanging.until_begun()
    ran = threading.Event()
    second = asyncio.create_task(pool.run(ran.set, None))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    hanging.go.set()
    await first
    await pool.run(lambda: None, ENOUGH)
    assert not ran.is_set()


@pytest.mark.parametrize("error", [None, ValueError("of the work")])
async def test_work_done_at_the_very_moment_of_its_deadline_counts(hanging: Hanging, error: Exception | None) -> None:
    """The loop learns of deadline and result in the same iteration, as after a pause."""
    pool, followed = pool_of(1), threading.Event()

    def work() -> str:
        hanging()
        if error:
            raise error
        return "in time"

    running = asyncio.create_task(pool.run(work, 0.05))
    await asyncio.sleep(0)  # it is queued and its deadline is running
    pool.leave(followed.set)  # runs after the work is done
    hanging.go.set()
    assert followed.wait(ENOUGH)
    time.sleep(0.06)  # noqa: ASYNC251
    if error:
        with pytest.raises(ValueError, match="of the work"):
            await running
    else:
        assert await running == "in time"
    assert held(pool) == 0


async def test_a_thread_keeps_no_reference_to_finished_work() -> None:
    class Request:
        def __call__(self) -> None:
            pass

    pool, request = pool_of(1), Request()
    gone = weakref.ref(request)
    await pool.run(request, ENOUGH)
    del request
    async with asyncio.timeout(ENOUGH):
        while gone():  # noqa: ASYNC110 - the thread has no event for it
            await asyncio.sleep(0.001)


async def test_stopping_finishes_what_is_queued(hanging: Hanging) -> None:
    pool = pool_of(1)
    running = [asyncio.create_task(pool.run(work, None)) for work in (hanging, lambda: "queued")]
    await hanging.until_begun()
    stopping = asyncio.create_task(asyncio.to_thread(pool.stop, ENOUGH))
    await asyncio.sleep(0.01)
    hanging.go.set()
    async with asyncio.timeout(ENOUGH):
        assert await asyncio.gather(*running) == ["finished", "queued"]
        await stopping
    assert not any(thread.name == "tested-0" and thread.is_alive() for thread in pool._threads)


async def test_stopping_abandons_hanging_work(hanging: Hanging) -> None:
    pool = pool_of(2)
    with pytest.raises(DeadlineExceeded):
        await pool.run(hanging, 0.01)
    await hanging.until_begun()
    async with asyncio.timeout(ENOUGH / 2):  # sooner than the work ends
        await asyncio.to_thread(pool.stop, 0.05)
    assert sum(thread.is_alive() for thread in pool._threads) == 1
    assert all(thread.daemon for thread in pool._threads), "what hangs keeps the process from ending"


def test_exiting_the_context_finishes_the_work_and_the_threads() -> None:
    pool, done = pool_of(3), threading.Event()
    pool.leave(done.set)
    assert done.wait(ENOUGH)
    for thread in pool._threads:
        thread.join(ENOUGH)
    assert not any(thread.is_alive() for thread in pool._threads)
