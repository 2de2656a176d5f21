"""Reading and forgetting stored conversations, for operators and apps.

Has its own threads: a client that reads a million messages delays no recall and no commit.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import asdict
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from django.db import DatabaseError, InterfaceError, connection
from django.utils import timezone

from conversations import forgetting, lookup, policy
from conversations.archive.writing import as_lines, export
from conversations.embedders.base import Embedder, EmbedderError
from conversations.lookup import BadCursor, MessageFilter, Page
from conversations.messages import add_messages
from conversations.querysets import NoScope, Scope
from conversations.reach import Reach
from conversations.selection import Selection
from conversations.turns import Json, Turn
from proxy.database.reconnecting import on_database
from proxy.database.thread_pool import DeadlineExceeded, ThreadPool
from proxy.errors import BadRequest, Overloaded, Unavailable
from proxy.memory.added import HasAdded, added_by
from proxy.spool.writing import SpoolError

__all__ = ["History", "MessageFilter", "Page", "Selection"]

T = TypeVar("T")

THREADS = 2
EXPORTS = 4  # at the same time: each holds a thread and a connection
DEADLINE_SECONDS = 600.0
UNAVAILABLE = "The database does not answer, or refuses: try again later."
LINES = 100  # of an export, sent in one chunk


class NotStored(Exception):
    """The partition is set to remember nothing."""


class History:
    """Created once per server process. `embedder` returns the embedder that searches by meaning use.

    `reach` is the caller's: nothing else is found or counted, as if it did not exist.

    All methods raise BadRequest for invalid parameters, and Unavailable if the database does not answer.
    """

    def __init__(self, embedder: Callable[[], Embedder]) -> None:
        self._pool = ThreadPool("history", THREADS)
        self._embedder = embedder
        self._exports = 0

    def stop(self, seconds: float) -> None:
        """End the threads, waiting at most `seconds` for each. Blocks."""
        self._pool.stop(seconds)

    async def partitions(self, reach: Reach, *, limit: int, cursor: str | None) -> Page:
        return await self._read(partial(lookup.partitions, limit=limit, cursor=cursor, reach=reach))

    async def instances(self, partition: str, reach: Reach, *, limit: int, cursor: str | None) -> Page:
        return await self._read(partial(lookup.instances, partition, limit=limit, cursor=cursor, reach=reach))

    async def messages(self, wanted: MessageFilter, reach: Reach, *, limit: int, cursor: str | None) -> Page:
        """A page of messages, latest first."""
        return await self._read(partial(lookup.filtered_messages, wanted, limit=limit, cursor=cursor, reach=reach))

    async def nearest(
        self, term: str, reach: Reach, *, partition: str | None, instance: str | None, limit: int
    ) -> list[Json]:
        """The messages closest to a text in meaning, best first."""
        return await self._found(term, self._embedder, partition=partition, instance=instance, limit=limit, reach=reach)

    async def message(self, pk: int, reach: Reach) -> Json | None:
        """A message with its payload, None without one."""
        return await self._read(partial(lookup.message, pk, reach))

    async def exchange(self, trace_id: uuid.UUID, reach: Reach) -> Json | None:
        """An exchange with its messages and its ledger, None without one."""
        return await self._read(partial(lookup.exchange, trace_id, _added, reach))

    async def reached_ids(self, ids: Sequence[int], reach: Reach) -> list[int]:
        """Those of some ids of messages that a caller reaches."""
        return await self._read(partial(lookup.reached_ids, ids, reach))

    async def view(self, count: int, *, partition: str, instance: str) -> list[Json]:
        """The latest messages of a scope, oldest first."""

        def read() -> list[Json]:
            return [lookup.as_json(row) for row in lookup.latest(count, partition=partition, instance=instance)]

        return await self._read(read)

    async def search(self, term: str, *, semantic: bool, partition: str, instance: str, limit: int) -> list[Json]:
        """Messages of a scope that hold the words, latest first; or by meaning (`semantic`), best first."""
        embedder = self._embedder if semantic else None
        return await self._found(term, embedder, partition=partition, instance=instance, limit=limit)

    async def remember(self, text: str, *, scope: Scope, by: str) -> int:
        """Store a statement as a message of its own, as words of the user that a tool passed on. Returns its id."""
        payload = {"role": "user", "content": text, "told_by": by}
        turn = Turn.from_payload(json.dumps(payload), payload)

        def store() -> int:
            if not policy.is_stored(scope.partition):
                raise NotStored
            return add_messages(scope=scope, messages=[(turn, timezone.now())])[0]

        try:
            return await self._read(store)
        except NotStored:
            raise BadRequest("This partition remembers nothing: an operator can change that in the admin.") from None

    async def forget(self, criteria: Json, *, by: str, dry_run: bool) -> Json:
        """Forget the messages that the criteria of a Selection name. Returns the counts of rows."""
        try:
            selection = Selection(**criteria)
        except ValueError as error:
            raise BadRequest(str(error), code="invalid_selection") from None
        work = partial(forgetting.count, selection) if dry_run else partial(forgetting.forget, selection, by=by)
        return asdict(await self._read(work))

    async def export(
        self, *, partition: str | None, instance: str | None, since: datetime | None, embeddings: bool
    ) -> AsyncIterator[bytes]:
        """JSON Lines, streamed from the database. Raises Overloaded while EXPORTS others are running."""
        if self._exports >= EXPORTS:
            raise Overloaded(f"{EXPORTS} exports are running: wait for one to end.")
        objects = export(partition=partition, instance=instance, since=since, embeddings=embeddings)
        chunks = self._chunks(objects, as_lines(objects))
        try:
            first = await anext(chunks)  # an error raised here still reaches the client as a status
        except NoScope as error:
            raise _no_scope(error) from None
        except (DatabaseError, InterfaceError) as error:
            raise Unavailable(UNAVAILABLE) from error
        return _begun(first, chunks)

    async def _chunks(self, objects: Generator[Json], lines: Iterator[str]) -> AsyncGenerator[bytes]:
        pool = ThreadPool("export", 1)  # a transaction belongs to one thread
        self._exports += 1
        try:
            more = True
            while more:
                chunk = await pool.run(lambda: "".join(islice(lines, LINES)).encode(), None)
                more = bool(chunk)
                yield chunk
        finally:
            self._exports -= 1

            def end() -> None:
                with suppress(DatabaseError, InterfaceError):
                    objects.close()
                connection.close()

            pool.leave(end)  # not awaited: the client may have left, and this task is then cancelled

    async def _found(self, term: str, embedder: Callable[[], Embedder] | None, **where: Any) -> list[Json]:
        def read() -> list[Json]:
            return [lookup.as_json(row) for row in lookup.search(term, embedder=embedder, **where)]

        return await self._read(read)

    async def _read(self, work: Callable[[], T]) -> T:
        try:
            return await self._pool.run(partial(on_database, work), DEADLINE_SECONDS)
        except NoScope as error:
            raise _no_scope(error) from None
        except BadCursor as error:
            raise BadRequest(str(error), code="invalid_cursor", param="cursor") from None
        except EmbedderError as error:
            raise Unavailable(f"Search by meaning is unavailable: {error}") from None
        except SpoolError as error:
            raise Unavailable(str(error)) from error
        except (DeadlineExceeded, DatabaseError, InterfaceError) as error:
            raise Unavailable(UNAVAILABLE) from error


def _no_scope(error: NoScope) -> BadRequest:
    return BadRequest(str(error), code="invalid_selection", param="partition")


async def _begun(first: bytes, rest: AsyncGenerator[bytes]) -> AsyncIterator[bytes]:
    async with aclosing(rest):
        yield first
        async for chunk in rest:
            yield chunk


def _added(ledger: HasAdded) -> Json:
    texts, exact = added_by(ledger)
    return {"injected": list(texts), "exact": exact}
