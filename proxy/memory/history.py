"""The door to conversations/ for looking back and forgetting, by an operator or an app.

It has threads of its own: somebody who reads a million messages delays no recall and no commit.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextlib import aclosing, suppress
from dataclasses import asdict
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from django.db import DatabaseError, InterfaceError, connection

from conversations import forgetting, lookup
from conversations.archive.writing import as_lines, export
from conversations.embedders.base import Embedder, EmbedderError
from conversations.lookup import BadCursor, Page
from conversations.models import Message
from conversations.querysets import NoScope
from conversations.selection import Selection
from conversations.turns import Json
from proxy.database.reconnecting import on_database
from proxy.database.thread_pool import DeadlineExceeded, ThreadPool
from proxy.errors import BadRequest, Overloaded, Unavailable
from proxy.spool.writing import SpoolError

__all__ = ["History", "Page", "Selection"]

T = TypeVar("T")

THREADS = 2
EXPORTS = 4  # at once: each holds a thread and a connection
SECONDS = 600.0
AWAY = "The database does not answer, or refuses: try again later."
LINES = 100  # of an export that are sent together


class History:
    """Opened once for a server process. `embedder` gives the one that searches by meaning go by.

    Everything raises BadRequest for what cannot be asked and Unavailable when the database does not answer.
    """

    def __init__(self, embedder: Callable[[], Embedder]) -> None:
        self._pool = ThreadPool("history", THREADS)
        self._embedder = embedder
        self._exports = 0

    def stop(self, seconds: float) -> None:
        """Let go of the threads. Blocks."""
        self._pool.stop(seconds)

    async def partitions(self, *, limit: int, cursor: str | None) -> Page:
        return await self._look(partial(lookup.partitions, limit=limit, cursor=cursor))

    async def instances(self, partition: str, *, limit: int, cursor: str | None) -> Page:
        return await self._look(partial(lookup.instances, partition, limit=limit, cursor=cursor))

    async def messages(
        self,
        *,
        partition: str | None,
        instance: str | None,
        since: datetime | None,
        before: datetime | None,
        role: str | None,
        search: str | None,
        limit: int,
        cursor: str | None,
    ) -> Page:
        """A page of messages, latest first."""

        def look() -> Page:
            rows = Message.objects.within(partition, instance).between(since, before)
            if role is not None:
                rows = rows.filter(role=role)
            if search is not None:
                rows = rows.matching(search)
            return lookup.messages(rows, limit=limit, cursor=cursor)

        return await self._look(look)

    async def nearest(self, term: str, *, partition: str | None, instance: str | None, limit: int) -> list[Json]:
        """The messages nearest to a text by meaning, best first."""
        return await self._found(term, self._embedder, partition=partition, instance=instance, limit=limit)

    async def message(self, pk: int) -> Json | None:
        return await self._look(partial(lookup.message, pk))

    async def exchange(self, trace_id: uuid.UUID) -> Json | None:
        return await self._look(partial(lookup.exchange, trace_id))

    async def view(self, count: int, *, partition: str, instance: str) -> list[Json]:
        """The latest messages of a scope, oldest first."""

        def look() -> list[Json]:
            return [lookup.as_json(row) for row in lookup.latest(count, partition=partition, instance=instance)]

        return await self._look(look)

    async def search(self, term: str, *, semantic: bool, partition: str, instance: str, limit: int) -> list[Json]:
        """Messages of a scope by words, latest first, or by meaning, best first."""
        embedder = self._embedder if semantic else None
        return await self._found(term, embedder, partition=partition, instance=instance, limit=limit)

    async def forget(self, criteria: Json, *, by: str, dry_run: bool) -> Json:
        """Forget what the criteria, those of a Selection, name; the counts of what went, or would go."""
        try:
            selection = Selection(**criteria)
        except ValueError as error:
            raise BadRequest(str(error), code="invalid_selection") from None
        work = partial(forgetting.count, selection) if dry_run else partial(forgetting.forget, selection, by=by)
        return asdict(await self._look(work))

    async def export(
        self, *, partition: str | None, instance: str | None, since: datetime | None, embeddings: bool
    ) -> AsyncIterator[bytes]:
        """JSON Lines, as they come from the database. Raises Overloaded when too many are under way."""
        if self._exports >= EXPORTS:
            raise Overloaded(f"{EXPORTS} exports are under way: wait for one to end.")
        objects = export(partition=partition, instance=instance, since=since, embeddings=embeddings)
        chunks = self._chunks(objects, as_lines(objects))
        try:
            first = await anext(chunks)  # what fails at once is said with a status
        except NoScope as error:
            raise _no_scope(error) from None
        except (DatabaseError, InterfaceError) as error:
            raise Unavailable(AWAY) from error
        return _begun(first, chunks)

    async def _chunks(self, objects: Generator[Json], lines: Iterator[str]) -> AsyncGenerator[bytes]:
        pool = ThreadPool("export", 1)  # a transaction stays on its thread
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

            pool.leave(end)  # not waited for: the client may have left, and this task with it

    async def _found(self, term: str, embedder: Callable[[], Embedder] | None, **where: Any) -> list[Json]:
        def look() -> list[Json]:
            return [lookup.as_json(row) for row in lookup.search(term, embedder=embedder, **where)]

        return await self._look(look)

    async def _look(self, work: Callable[[], T]) -> T:
        try:
            return await self._pool.run(partial(on_database, work), SECONDS)
        except NoScope as error:
            raise _no_scope(error) from None
        except BadCursor as error:
            raise BadRequest(str(error), code="invalid_cursor", param="cursor") from None
        except EmbedderError as error:
            raise Unavailable(f"Nothing can be searched by meaning now: {error}") from None
        except SpoolError as error:
            raise Unavailable(str(error)) from error
        except (DeadlineExceeded, DatabaseError, InterfaceError) as error:
            raise Unavailable(AWAY) from error


def _no_scope(error: NoScope) -> BadRequest:
    return BadRequest(str(error), code="invalid_selection", param="partition")


async def _begun(first: bytes, rest: AsyncGenerator[bytes]) -> AsyncIterator[bytes]:
    async with aclosing(rest):
        yield first
        async for chunk in rest:
            yield chunk
