"""Recall and storage for the requests of a server process, on threads of their own.

Django's ORM blocks, so its work runs on a few threads that keep their connections: some recall, others store, so that
a slow recall delays no commit. No connection is held while a provider is working. Memory never fails a request: errors
are logged with the trace id, and the request goes on without memory. During an outage the database is not used at all:
recall is skipped, and exchanges wait in the spool.

A busy machine is no outage: work waits for its turn, and a request that would wait longer than MOST_WAIT is refused.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from enum import Enum
from functools import partial
from typing import Any, TypeVar

from django.conf import settings
from django.db import DatabaseError, InterfaceError, OperationalError

from conversations import policy
from conversations.backlog import Worker, waiting
from conversations.chains import Pending, note_pending, pending
from conversations.embedders.base import EmbedderError
from conversations.embedding import in_use
from conversations.querysets import SCRATCH, Scope
from conversations.recall.news import Loader
from conversations.repetition import is_repeated
from conversations.states import MemoryState
from conversations.turns import digest, plain_text
from proxy import metrics
from proxy.database.circuit_breaker import CircuitBreaker
from proxy.database.health import NO_ANSWER, database_health, recall_health
from proxy.database.reconnecting import DatabaseUnavailable, error_name, on_database
from proxy.database.thread_pool import DeadlineExceeded, ThreadPool
from proxy.errors import Overloaded
from proxy.memory.polls import SUSPICIOUS, Seen
from proxy.memory.recollection import RecallRequest, Recollection, recollect
from proxy.prompt.chat import Chat
from proxy.spool.record import Entry
from proxy.spool.replaying import SpoolBusy, replay_to_database, spool_folder
from proxy.spool.segments import total_size
from proxy.spool.writing import Spool, SpoolError

__all__ = ["SCRATCH", "STORE_SECONDS", "MemoryService", "Scope", "StoredIn"]

T = TypeVar("T")

log = logging.getLogger(__name__)

RECALL_THREADS = 4
STORE_THREADS = 4
HEALTH_THREADS = 2  # so that a check of the embedder does not wait for a database that hangs
STORE_SECONDS = 2.0  # an exchange that takes the database longer goes to the spool
SLOW_SECONDS = 0.3  # work that takes longer makes the database suspicious
SUSPICIOUS_AGAIN_SECONDS = 1.0  # so often at most, as a probe makes a connection
MOST_WAIT = 10.0  # seconds that a request may wait for threads; clients that would wait longer are better off elsewhere
WATCH_SECONDS = 60.0  # between two checks of a database that answers
REPLAY_SECONDS = 0.5  # between two checks of the spool
REPLAY_SECONDS_AFTER_FAILURE = 5.0
# How long storing waits for the replay of the scope's spooled records. Clients rarely notice, as the provider is
# working meanwhile. It also slows down clients that send requests without a pause: otherwise a busy server would fill
# the spool faster than replaying empties it.
CATCH_UP_SECONDS = 0.25
# While questions come, a replay rests after each batch, three times as long as that took: recall hardly feels it. A
# question within this time counts as coming.
REPLAY_RESTS, QUESTIONS_COME_SECONDS = 3, 0.25
LOSS_SHOWN_SECONDS = 60.0
STOP_SECONDS = 5.0  # a thread that has not finished by then is abandoned


class StoredIn(Enum):
    """Where half of an exchange has been stored."""

    DATABASE = "database"
    SPOOL = "spool"
    NEITHER = "neither"


class MemoryService:
    """Created once per server process."""

    def __init__(self) -> None:
        self._breaker = CircuitBreaker(opened=self._give_up)
        self._recalling = ThreadPool("recall", RECALL_THREADS, slow=self._suspect, slow_seconds=SLOW_SECONDS)
        self._storing = ThreadPool("store", STORE_THREADS, slow=self._suspect, slow_seconds=SLOW_SECONDS)
        self._replaying = ThreadPool("replay", 1)
        self._checking = ThreadPool("health", HEALTH_THREADS)
        self._suspected = float("-inf")
        self._spool = Spool(spool_folder(), limit=settings.RESERVOIR_SPOOL_LIMIT)
        self._background: list[asyncio.Task[None]] = []
        self.embedder = in_use
        self._worker = Worker(self.embedder)
        self._loader = Loader()
        self._seen = Seen()
        self._unfinished: set[asyncio.Future[Any]] = set()
        self._recalled = float("-inf")  # when a request last asked for memories
        self._lost_until = float("-inf")  # until then, /ready tells of an exchange that is neither stored nor spooled

    async def start(self) -> None:
        """Load the embedder, so that the first request does not wait for it, and start the background work."""
        try:
            await self._recalling.run(lambda: self.embedder().embed(["warm"]), None)
        except EmbedderError as error:
            log.warning("recall uses words alone: %s", error)
        await self._replaying.run(self._spool.pending, None)  # reads what an earlier process left
        self._worker.start()
        self._loader.start()
        self._background = [asyncio.create_task(self._watch()), asyncio.create_task(self._replay())]

    async def stop(self) -> None:
        """Wait until everything under way is stored, then stop threads and tasks."""
        while self._unfinished:
            await asyncio.wait(self._unfinished)
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await asyncio.to_thread(self._spool.close)
        pools = (self._recalling, self._storing, self._replaying, self._checking)
        stopping = [asyncio.to_thread(part.stop, STOP_SECONDS) for part in (self._worker, self._loader, *pools)]
        await asyncio.gather(*stopping)
        self.embedder.close()

    def admit(self) -> None:
        """Raises Overloaded if a request would wait too long for memory, with the seconds until it would not."""
        excess = self._recalling.seconds_to_wait + self._storing.seconds_to_wait - MOST_WAIT
        if excess > 0:
            seconds = math.ceil(excess)
            raise Overloaded(f"Too many requests are waiting for memory: try again in {seconds} s.", seconds=seconds)

    async def rules_act(self, scope: Scope) -> bool:
        """Whether rules act in the scope's partition. They do while the database is unreachable."""
        if policy.is_known(scope.partition):
            return policy.rules_act(scope.partition)
        return await self._asked(partial(policy.rules_act, scope.partition), otherwise=True)

    async def is_poll(self, chat: Chat, scope: Scope) -> bool:
        """Whether the request is the same text again and again, without a history. Most requests cost no query."""
        last = chat.last_user
        if last is None or chat.has_history or last != len(chat.messages) - 1:
            return False
        payload = chat.messages[last].payload
        asked = digest(payload)
        if self._seen.again(scope, asked) < SUSPICIOUS:
            return False
        length = len(plain_text(payload).strip())
        return await self._asked(partial(is_repeated, scope=scope, digest=asked, length=length), otherwise=False)

    async def pending(self, scope: Scope, response_id: str) -> Pending | None:
        """The exchange that waits for a provider's answer with this id; None without one, or without the database."""
        return await self._asked(partial(pending, scope, response_id), otherwise=None)

    async def note_pending(self, scope: Scope, trace_id: uuid.UUID, response_id: str) -> None:
        """Note for an open exchange under which id its answer is to be fetched. Never raises."""
        try:
            work = partial(note_pending, scope=scope, trace_id=trace_id, response_id=response_id)
            await self._storing.run(partial(on_database, work), STORE_SECONDS)
        except Exception as error:
            self._note(error)
            log.warning("exchange %s stays open: the id of its answer is not stored (%s)", trace_id, error_name(error))

    async def _asked(self, work: Callable[[], T], *, otherwise: T) -> T:
        """The database's answer within the deadline of recall."""
        if self._breaker.is_open:
            return otherwise
        try:
            seconds = settings.RESERVOIR_RECALL_DEADLINE_MS / 1000
            return await self._recalling.run(partial(on_database, work), seconds)
        except Exception as error:
            self._note(error)
            log.warning("the database was not asked in time (%s)", error_name(error))
            return otherwise

    async def recall(self, request: RecallRequest, trace_id: uuid.UUID) -> Recollection:
        """The memories for a request. Never raises: failures are `degraded`.

        RESERVOIR_RECALL_DEADLINE_MS counts from when a thread is free.
        """
        if request.chat.last_user is None:
            return Recollection(MemoryState.ON)
        if self._breaker.is_open:
            metrics.degraded("database unreachable")
            return Recollection(MemoryState.DEGRADED)
        self._recalled = time.monotonic()
        milliseconds = settings.RESERVOIR_RECALL_DEADLINE_MS
        recalling = partial(recollect, self.embedder, replace(request, milliseconds=milliseconds))
        try:
            found = await self._recalling.run(partial(on_database, recalling), milliseconds / 1000)
            self._breaker.confirm()
            return found
        except DeadlineExceeded:
            self._breaker.suspect()
            metrics.degraded("recall late")
            log.warning("recall for %s took too long and was skipped", trace_id)
            return Recollection(MemoryState.DEGRADED, late=True)
        except Exception as error:
            self._note(error)
            metrics.degraded("recall failed")
            log.error("recall for %s failed and was skipped (%s)", trace_id, error_name(error))
        return Recollection(MemoryState.DEGRADED)

    async def health(self) -> tuple[dict[str, str | None], dict[str, str]]:
        """Each part and what is wrong with it, None for nothing; and the versions that the database runs."""
        parts: dict[str, str | None] = {"database": NO_ANSWER, "migrations": None}
        versions: dict[str, str] = {}
        if not self._breaker.is_open:
            with suppress(DeadlineExceeded):
                parts, versions = await self._checking.run(database_health, STORE_SECONDS)
        if self.lost_lately:
            parts["storing"] = "an exchange was lost in the last minute: see the log"
        vector, model = None, ""
        try:
            vector, model = await self._checking.run(self._embed_ready, STORE_SECONDS)
            parts["embedder"] = None
        except DeadlineExceeded:
            parts["embedder"] = "it does not answer in time"
        except EmbedderError as error:
            parts["embedder"] = str(error)
        if not any(parts.values()):
            try:
                parts["recall"] = await self._checking.run(partial(recall_health, vector, model), STORE_SECONDS)
            except DeadlineExceeded:
                parts["recall"] = "its query does not end in time"
        for part, pool in (("recall", self._recalling), ("storing", self._storing)):
            if pool.is_stuck:
                parts[part] = "all its threads stand still"
        return parts, versions

    @property
    def lost_lately(self) -> bool:
        """Whether an exchange of the last minute is neither in the database nor in the spool."""
        return time.monotonic() < self._lost_until

    async def tell_what_waits(self) -> None:
        """Tell the metrics how much waits: messages for a vector, and exchanges in the spool."""
        messages = None
        if not self._breaker.is_open:
            with suppress(DeadlineExceeded, DatabaseError, InterfaceError):
                messages = await self._checking.run(partial(on_database, waiting), STORE_SECONDS)
        metrics.waiting(messages=messages, spooled=await asyncio.to_thread(total_size, spool_folder()))

    def _embed_ready(self) -> tuple[list[float], str]:
        """A vector, and the name of its embedding model, which may have to be read from the database. Blocks."""
        used = self.embedder()
        return used.embed([f"ready at {time.time()}"])[0].tolist(), used.name  # a text that no cache knows

    def track(self, task: asyncio.Future[T]) -> asyncio.Future[T]:
        """Have `stop` wait for the task. Returns the task."""
        self._unfinished.add(task)
        task.add_done_callback(self._unfinished.discard)
        return task

    async def store(
        self,
        work: Callable[[], Any],
        entry: Callable[[], Entry],
        *,
        scope: Scope,
        trace_id: uuid.UUID,
        seconds: float = STORE_SECONDS,
        spooled: bool = False,
    ) -> StoredIn:
        """Store half of an exchange in the database by `work`, or spool `entry` if that takes longer than `seconds`.

        The seconds count from when a thread is free: while the database answers, waiting is no reason for the spool.

        `spooled`: the other half is in the spool, so this one goes there too, as do later exchanges of the scope:
        replaying keeps their order. Both functions are called on other threads, and `work` may block. Never raises.
        """
        if not spooled and await self._may_store(scope):
            try:
                await self._storing.run(partial(on_database, work), seconds)
                self._breaker.confirm()
                return StoredIn.DATABASE
            except Exception as error:
                self._note(error)
                log.warning("exchange %s goes to the spool (%s)", trace_id, error_name(error))
        try:
            async with asyncio.timeout(STORE_SECONDS):
                await asyncio.shield(asyncio.wrap_future(self._spool.keep(entry)))
            metrics.degraded("spooled")
            return StoredIn.SPOOL
        except SpoolError as error:
            log.error("exchange %s is not stored: %s", trace_id, error)
        except TimeoutError:
            log.error("exchange %s may be lost: the disk takes too long", trace_id)
        metrics.degraded("not stored")
        self._lost_until = time.monotonic() + LOSS_SHOWN_SECONDS
        return StoredIn.NEITHER

    async def _may_store(self, scope: Scope) -> bool:
        """Whether the database answers and holds all of the scope's earlier exchanges. Waits a little for a replay."""
        deadline = time.monotonic() + CATCH_UP_SECONDS
        while not self._breaker.is_open and time.monotonic() < deadline:
            if not self._spool.holds(scope):
                return True
            await asyncio.sleep(0.01)
        return False

    def _note(self, error: Exception) -> None:
        """Tell the circuit breaker what an error says about the database."""
        if isinstance(error, DatabaseUnavailable):
            self._breaker.trip()
        elif isinstance(error, DeadlineExceeded | OperationalError | InterfaceError):
            self._breaker.suspect()

    def _suspect(self) -> None:
        """Have the database probed: work takes long. A busy machine does not have it probed all the time."""
        if time.monotonic() - self._suspected > SUSPICIOUS_AGAIN_SECONDS:
            self._suspected = time.monotonic()
            self._breaker.suspect()

    def _give_up(self) -> None:
        """Stop waiting for a database that does not answer."""
        self._recalling.give_up()
        self._storing.give_up()

    async def _watch(self) -> None:
        while True:
            try:
                await self._breaker.watch(WATCH_SECONDS)
            except Exception:
                log.exception("the database could not be watched")
                await asyncio.sleep(1)

    async def _replay(self) -> None:
        """Store the spool's records whenever the database answers."""
        while True:
            await asyncio.sleep(REPLAY_SECONDS)
            if self._breaker.is_open:
                continue
            try:
                stored = await self._replaying.run(self._replay_some, None)
            except SpoolBusy:
                continue  # another process is replaying
            except Exception as error:
                self._note(error)
                log.warning("the spool cannot be stored now (%s)", error_name(error))
                if not self._breaker.is_open:
                    await asyncio.sleep(REPLAY_SECONDS_AFTER_FAILURE)
                continue
            if stored:
                log.info("stored %d records of the spool", stored)
                self.wake()

    def _replay_some(self) -> int:
        stored = replay_to_database(spool_folder(), give_way=self._give_way).stored if self._spool.pending() else 0
        self._spool.tidy()
        return stored

    def _give_way(self, seconds: float) -> None:
        """Rest after a batch of the replay that took these seconds, while questions come. Blocks."""
        until = time.monotonic() + REPLAY_RESTS * seconds
        while (now := time.monotonic()) < until and now - self._recalled < QUESTIONS_COME_SECONDS:
            time.sleep(0.01)

    def wake(self) -> None:
        """Tell the backlog's worker that there are new messages."""
        self._worker.wake()
