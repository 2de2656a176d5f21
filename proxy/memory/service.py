"""The only door to conversations/: through it a scope is asked, and the halves of exchanges are kept (record.py).

Django's ORM blocks, so its work is done on a few threads that keep their connections: some recall, others store, so
that a slow recall delays no commit. No connection is held while a provider thinks. Nothing here raises on account
of the memory: what fails is logged with the trace id, and the request goes on without it. While the database does not
answer nobody asks it anything: there is no recall, and exchanges wait in the spool.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from functools import partial
from typing import Any, NamedTuple, TypeVar

from django.conf import settings
from django.db import DatabaseError, InterfaceError, OperationalError, ProgrammingError, connection
from django.db.migrations.executor import MigrationExecutor

from conversations.backlog import Worker
from conversations.embedders.base import EmbedderError
from conversations.embedding import in_use
from conversations.models import Message
from conversations.querysets import SCRATCH, Scope
from conversations.recall.search import CANDIDATES
from conversations.turns import NAME_LENGTH, Count
from proxy.database.circuit_breaker import CircuitBreaker
from proxy.database.reconnecting import Away, error_name, on_database
from proxy.database.thread_pool import DeadlineExceeded, ThreadPool
from proxy.memory.recollection import Recollection, recollect
from proxy.prompt.chat import Chat
from proxy.spool.replaying import SpoolBusy, replay, spool_folder, store_entry
from proxy.spool.segments import Entry
from proxy.spool.writing import Spool, SpoolError

__all__ = ["NAME_LENGTH", "SCRATCH", "MemoryOptions", "MemoryService", "Scope"]

T = TypeVar("T")

log = logging.getLogger(__name__)

RECALL_THREADS = 4
STORE_THREADS = 4
STORE_SECONDS = 2.0  # an exchange that the database has not taken by then goes to the spool
REPLAY_EVERY = 0.5  # seconds between two looks for something to replay
REPLAY_AFTER_FAILURE = 5.0
# For the replay to finish with a scope that it is at. It is seldom felt, as the provider is thinking meanwhile; and it
# slows down who asks without a pause, or a busy server would add to the spool faster than it is stored.
CATCH_UP_SECONDS = 0.25
STOP_SECONDS = 5.0  # for a thread to finish before it is left behind


class MemoryOptions(NamedTuple):
    """Whose memory a request is about, and what of it the client wants."""

    trace_id: uuid.UUID
    scope: Scope
    recall: bool
    store: bool
    candidates: int = CANDIDATES  # how many messages to consider


class Kept(Enum):
    """Where a half of an exchange has been kept."""

    DATABASE = "database"
    SPOOL = "spool"
    NOWHERE = "nowhere"


class MemoryService:
    """Opened once for a server process."""

    def __init__(self) -> None:
        self._recalling = ThreadPool("recall", RECALL_THREADS)
        self._storing = ThreadPool("store", STORE_THREADS)
        self._replaying = ThreadPool("replay", 1)
        self._database = CircuitBreaker()
        self._spool = Spool(spool_folder(), limit=settings.RESERVOIR_SPOOL_LIMIT)
        self._looking_after: list[asyncio.Task[None]] = []
        self.embedder = in_use
        self._worker = Worker(self.embedder)
        self._unfinished: set[asyncio.Future[Any]] = set()

    async def start(self) -> None:
        """Load the embedder, so that the first request does not wait for it, and work off the backlog."""
        try:
            await self._recalling.run(lambda: self.embedder().embed(["warm"]), None)
        except EmbedderError as error:
            log.warning("recall goes by words alone: %s", error)
        await self._replaying.run(self._spool.pending, None)  # reads what an earlier process left
        self._worker.start()
        self._looking_after = [asyncio.create_task(self._watch()), asyncio.create_task(self._replay())]

    async def stop(self) -> None:
        """Finish what is being stored, then let go of everything."""
        while self._unfinished:
            await asyncio.wait(self._unfinished)
        for task in self._looking_after:
            task.cancel()
        await asyncio.gather(*self._looking_after, return_exceptions=True)
        await asyncio.to_thread(self._spool.close)
        pools = (self._recalling, self._storing, self._replaying)
        stopping = [asyncio.to_thread(part.stop, STOP_SECONDS) for part in (self._worker, *pools)]
        await asyncio.gather(*stopping)
        self.embedder.close()

    async def recall(self, chat: Chat, options: MemoryOptions, count: Count) -> Recollection:
        """What the scope knows that matters for the chat's last user message, within the deadline."""
        if chat.last_user is None:
            return Recollection("on")
        looking = partial(
            recollect,
            self.embedder,
            scope=options.scope,
            chat=chat,
            count=count,
            candidates=options.candidates,
            milliseconds=settings.RESERVOIR_RECALL_DEADLINE_MS,
        )
        work = partial(on_database, looking)
        if self._database.is_open:
            return Recollection("degraded")
        try:
            return await self._recalling.run(work, settings.RESERVOIR_RECALL_DEADLINE_MS / 1000)
        except DeadlineExceeded:
            self._database.suspect()
            log.warning("recall for %s took too long and was left out", options.trace_id)
            return Recollection("degraded", late=True)
        except Exception as error:
            self._note(error)
            log.error("recall for %s failed and was left out (%s)", options.trace_id, error_name(error))
        return Recollection("degraded")

    async def health(self) -> dict[str, str | None]:
        """Each part and what is wrong with it, None for nothing."""
        parts: dict[str, str | None] = {"database": "it does not answer", "migrations": None}
        if not self._database.is_open:
            with suppress(DeadlineExceeded):
                parts = await self._storing.run(_database_health, STORE_SECONDS)
        try:
            await self._recalling.run(lambda: self.embedder().embed(["ready"]), STORE_SECONDS)
            return parts | {"embedder": None}
        except DeadlineExceeded:
            return parts | {"embedder": "it does not answer in time"}
        except EmbedderError as error:
            return parts | {"embedder": str(error)}

    def track(self, task: asyncio.Future[T]) -> asyncio.Future[T]:
        """Wait for it before stopping."""
        self._unfinished.add(task)
        task.add_done_callback(self._unfinished.discard)
        return task

    async def keep(
        self,
        options: MemoryOptions,
        work: Callable[[], Any],
        entry: Callable[[], Entry],
        *,
        seconds: float = STORE_SECONDS,
        spooled: bool = False,
    ) -> Kept:
        """Store a half of an exchange by `work`, which blocks; where the database does not take it, spool `entry`.

        The database has so many `seconds`. What begins in the spool goes on there (`spooled`), and a scope's later
        exchanges follow it: replaying keeps their order. Both functions are called on other threads. Never raises.
        """
        if not spooled and await self._may_store(options.scope):
            try:
                await self._storing.run(partial(on_database, work), seconds)
                return Kept.DATABASE
            except Exception as error:
                self._note(error)
                log.warning("exchange %s goes to the spool (%s)", options.trace_id, error_name(error))
        try:
            async with asyncio.timeout(STORE_SECONDS):
                await asyncio.shield(asyncio.wrap_future(self._spool.keep(entry)))
            return Kept.SPOOL
        except SpoolError as error:
            log.error("exchange %s is not kept: %s", options.trace_id, error)
        except TimeoutError:
            log.error("exchange %s may not be kept: the disk takes too long", options.trace_id)
        return Kept.NOWHERE

    async def _may_store(self, scope: Scope) -> bool:
        """Whether the database is to be asked, and what the scope has in the spool is stored, or is at this moment."""
        deadline = time.monotonic() + CATCH_UP_SECONDS
        while not self._database.is_open and time.monotonic() < deadline:
            if not self._spool.holds(scope):
                return True
            await asyncio.sleep(0.01)
        return False

    def _note(self, error: Exception) -> None:
        """What an error says of the database."""
        if isinstance(error, Away):
            self._database.trip()
        elif isinstance(error, DeadlineExceeded | OperationalError | InterfaceError):
            self._database.suspect()

    async def _watch(self) -> None:
        while True:
            try:
                await self._database.watch(60)
            except Exception:
                log.exception("the database could not be watched")
                await asyncio.sleep(1)

    async def _replay(self) -> None:
        """Store what waits in the spool whenever the database answers."""
        while True:
            await asyncio.sleep(REPLAY_EVERY)
            if self._database.is_open:
                continue
            try:
                stored = await self._replaying.run(self._replay_some, None)
            except SpoolBusy:
                continue  # another process is at it
            except Exception as error:
                self._note(error)
                log.warning("the spool waits (%s)", error_name(error))
                if not self._database.is_open:
                    await asyncio.sleep(REPLAY_AFTER_FAILURE)
                continue
            if stored:
                log.info("%d records of the spool are stored", stored)
                self.wake()

    def _replay_some(self) -> int:
        stored = replay(spool_folder(), store_entry).stored if self._spool.pending() else 0
        self._spool.tidy()
        return stored

    def wake(self) -> None:
        """Tell the backlog's worker that there is something new."""
        self._worker.wake()


def _database_health() -> dict[str, str | None]:
    try:
        on_database(lambda: Message.objects.values("id").first())
    except ProgrammingError:
        return {"database": None, "migrations": "run manage.py migrate"}
    except DatabaseError as error:
        return {"database": f"it does not answer ({error_name(error)})", "migrations": None}
    executor = MigrationExecutor(connection)
    behind = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return {"database": None, "migrations": "run manage.py migrate" if behind else None}
