"""Edge: reads what is new in a scope that the process keeps, and loads scopes to keep.

A scope's messages appear at its end, and raise its `message_count` in the same transaction. Whatever else happens to
them, triggers note in its `revision`. Vectors only appear, after their messages. So one statement, which sees a single
moment, reads both numbers, the messages from the latest known on, and the vectors of messages that had none. If the
revision is the same, the latest message known is still there, and the count has risen by the number of those after it,
what is known and what is new are the whole scope. Otherwise the scope is read from the database, and loaded again.

Texts are not kept: recall reads what it shows when it shows it.
"""

from __future__ import annotations

import logging
import threading

import numpy as np
from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection, transaction
from numpy.typing import NDArray

from conversations.recall.cache import Key, Known, News, cache, limit
from conversations.recall.columns import MESSAGES, RECALLABLE, ROW, unpack, unpack_messages
from conversations.recall.corpus import Added, Corpus
from conversations.recall.dates import time_words
from conversations.recall.limited import one_row

log = logging.getLogger(__name__)

SLICE = 2_000  # messages read at once
MOST_BARE = 2_000  # messages without a vector; with more, the backlog is far behind, and recall reads the database


def up_to_date(instance_id: int, model: str, *, milliseconds: int) -> Corpus | None:
    """All of a scope's messages with their vectors, if the process keeps them. None: read the database.

    PostgreSQL gives up after `milliseconds`; 0: never.
    """
    if not limit():
        return None
    key = Key(instance_id, model)
    for _ in range(2):  # another thread may add the same news meanwhile
        if (known := cache.ask(key)) is None:
            return None
        news = read_news(key, known, milliseconds=milliseconds) if _is_embedded(known) else None
        if known := cache.follow(key, known, news):
            return known.corpus
    return None


def _is_embedded(known: Known) -> bool:
    return known.corpus is not None and len(known.corpus.bare) <= MOST_BARE


def read_news(key: Key, known: Known, *, milliseconds: int = 0) -> News | None:
    """A scope's messages from the latest one known on, at most a slice of them. None if the scope is gone."""
    parameters = {
        "instance": key.instance_id,
        "model": key.model,
        "created": known.created,
        "last": known.last,
        "bare": [*known.corpus.bare] if known.corpus and _is_embedded(known) else [],
        "most": SLICE,
        "language": settings.RESERVOIR_LANGUAGE,
        "times": time_words(settings.RESERVOIR_LANGUAGE),
    }
    row = one_row(NEWS, parameters, milliseconds=milliseconds)
    if row is None:
        return None
    revision, messages, model_id, found, first, created, last, *columns, lexemes, of, vectors = row
    unpacked = unpack_messages(columns)
    texts = lexemes.split("\n") if len(unpacked["ids"]) else []
    added = Added(unpacked, texts, unpack(of, ">i8"), _unpack_vectors(vectors))
    return News(revision, messages, model_id, found, first or 0, created or known.created, last or known.last, added)


def _unpack_vectors(column: bytes | None) -> NDArray[np.float16]:
    """Vectors as pgvector sends them: the number of dimensions, an unused number, and the numbers, two bytes each."""
    if not column:
        return np.zeros((0, 0), np.float16)
    dimensions = int.from_bytes(column[:2])
    return unpack(column, ">f2").reshape(-1, dimensions + 2)[:, 2:]


def load(key: Key, stop: threading.Event | None = None) -> None:
    """Read a whole scope, as it is at one moment, and keep it, unless it is too large or `stop` is set meanwhile."""
    known = Known()
    with transaction.atomic(durable=True):
        with connection.cursor() as cursor:
            cursor.execute(ONE_MOMENT)
            cursor.execute(WATCHED)
            if cursor.fetchone() != (2,):
                return
        while not (stop and stop.is_set()):
            if (news := read_news(key, known)) is None:
                return
            known = news.after(known)
            if known.corpus is None or not 0 < known.corpus.size <= limit():
                return
            if news.found < SLICE:
                cache.keep(key, known)
                log.debug("instance %d is kept in memory: %d messages", key.instance_id, len(known.corpus))
                return


class Loader(threading.Thread):
    """Loads the scopes that are wanted. Each server process has one."""

    def __init__(self) -> None:
        super().__init__(name="scopes", daemon=True)
        self._stopping = threading.Event()

    def stop(self, seconds: float = 10) -> None:
        """Finish what is under way, waiting `seconds` at most."""
        self._stopping.set()
        cache.wanting.set()
        self.join(seconds)

    def run(self) -> None:
        while not self._stopping.is_set():
            cache.wanting.wait()
            while not self._stopping.is_set() and (key := cache.next_wanted()):
                try:
                    load(key, self._stopping)
                except (DatabaseError, InterfaceError) as error:
                    log.warning("a scope is not kept in memory (%s)", type(error).__name__)
                except Exception:
                    log.exception("a scope is not kept in memory")
            connection.close()


ONE_MOMENT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"

# The triggers that raise the revision.
WATCHED = """
SELECT count(*)::int FROM pg_trigger
WHERE tgrelid = 'conversations_message'::regclass AND tgname IN ('message_rewritten', 'messages_removed')
  AND tgenabled IN ('O', 'A')
"""

# In the order of time, and of ids at the same time. The latest one known is among those found, but not added again.
NEWS = f"""
WITH scope AS MATERIALIZED (
    SELECT revision, message_count FROM conversations_instance WHERE id = %(instance)s
), model AS MATERIALIZED (
    SELECT id FROM conversations_embeddingmodel WHERE name = %(model)s
), fresh AS MATERIALIZED (
    SELECT {ROW}, {RECALLABLE} AND m.id <> %(last)s AS recalled FROM conversations_message m
    WHERE m.instance_id = %(instance)s AND (m.created, m.id) >= (%(created)s::timestamptz, %(last)s::bigint)
    ORDER BY m.created, m.id LIMIT %(most)s
)
SELECT scope.revision, scope.message_count, coalesce((SELECT id FROM model), 0), seen.*, message.*, piece.*
FROM scope, (
    SELECT count(*), (array_agg(id))[1], max(created), (array_agg(id))[count(*)] FROM fresh
) seen, (
    SELECT {MESSAGES}, string_agg(coalesce(m.lexemes::text, ''), E'\\n') FROM fresh m WHERE recalled
) message, (
    SELECT string_agg(int8send(e.message_id), ''), string_agg(halfvec_send(e.vector), '')
    FROM unnest(ARRAY(SELECT id FROM fresh WHERE recalled) || %(bare)s::bigint[]) bare(id) CROSS JOIN LATERAL (
        SELECT e.message_id, e.vector FROM conversations_embedding e
        WHERE e.message_id = bare.id AND e.instance_id = %(instance)s AND e.model_id = (SELECT id FROM model) OFFSET 0
    ) e
) piece
"""  # noqa: S608, composed of constants
