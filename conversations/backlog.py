"""The backlog: messages without an embedding. The queue is the message table itself, so a crash loses nothing.

A worker leases a few messages by moving their due time ahead, embeds them outside a transaction, and writes the
vectors. A message that cannot be embedded delays only itself. A very long message is embedded only up to a limit, which
takes a few seconds.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import islice
from types import ModuleType

from django.db import DatabaseError, connection
from django.utils import timezone

from conversations import backlog_by_scope, backlog_sql, indexes, scopes
from conversations.backlog_sql import Embedded, Text, put_off
from conversations.embedders.base import Embedder, EmbedderError, Vectors
from conversations.embedders.pieces import Piece, split
from conversations.models import EmbeddingModel, Message

# The part of a text that is embedded: some 360 pieces of English, or seven seconds with the local model. Without it, a
# message of megabytes would keep all later ones from being found by meaning for an hour. The index of words has a lower
# limit.
EMBEDDED_CHARACTERS = 200_000

log = logging.getLogger(__name__)

SHORT_TEXT = 400  # characters; a longer text is seldom a single piece
BATCH = 16
LEASE = timedelta(minutes=5)
RETRY = timedelta(minutes=1)
OVERTAKEN = timedelta(seconds=10)  # by then, this process has noticed that another model is in use
INDEX_SECONDS = 60.0  # between two checks for scopes that have grown large enough to earn an index
IDLE_SECONDS = 5.0  # how soon messages that another process left are noticed


def waiting(most: int = 100_000) -> int:
    """How many messages wait for a vector; `most` if there are more. Reads an index alone."""
    return Message.objects.filter(embed_due__isnull=False).order_by()[:most].count()


def work_off(embedder: Embedder, *, batch: int = BATCH) -> int:
    """Embed at most `batch` messages that are due. Returns how many were taken; 0 if none are due.

    Raises EmbedderError if none of them could be embedded; they are then due again in a minute.
    """
    messages = statements().lease(timezone.now(), until=LEASE, most=batch)
    if not messages:
        return 0
    try:
        embed(embedder, messages)
    except EmbedderError:
        if len(messages) == 1:
            put_off(messages[0], timezone.now() + RETRY)
            raise
        failures = [message for message in messages if not _embed_alone(embedder, message)]
        if len(failures) == len(messages):
            raise
    return len(messages)


def save_vectors(
    *, message_id: int, instance_id: int, model: EmbeddingModel, pieces: Sequence[Piece], vectors: Vectors
) -> None:
    """Write a message's vectors and take it off the backlog, unless another model has come into use meanwhile."""
    save(model.name, [Embedded(message_id, instance_id, pieces, [*vectors])])


def save_computed_vectors(
    embedder: Embedder, *, message_id: int, instance_id: int, text: str, vectors: Vectors
) -> None:
    """Save vectors that were computed for a message's text before it was stored, where the worker would make the same.

    That is where the text is a single piece. Longer texts are left to the worker.
    """
    if piece := single_piece(embedder, text):
        save(embedder.name, [Embedded(message_id, instance_id, [piece], [*vectors])])


def single_piece(embedder: Embedder, text: str) -> Piece | None:
    """The piece of a text that has just one, None for any other."""
    pieces = split(text, embedder.count) if len(text) <= SHORT_TEXT else []
    return pieces[0] if len(pieces) == 1 else None


def save(model: str, embedded: Sequence[Embedded]) -> None:
    """Write messages' vectors and take them off the backlog, unless another model has come into use meanwhile."""
    statements().write(model, embedded, overtaken=timezone.now() + OVERTAKEN)


def embed(
    embedder: Embedder, messages: Sequence[Text | Message], save: Callable[[str, Sequence[Embedded]], None] = save
) -> None:
    """Make and write the vectors of these messages. On EmbedderError, none are written."""
    pieces = [split(_embedded(message.content), embedder.count) for message in messages]
    texts = [m.content[p.start : p.end] for m, parts in zip(messages, pieces, strict=True) for p in parts]
    vectors = iter(embedder.embed(texts, later=True))
    embedded = [
        Embedded(message.id, message.instance_id, parts, [*islice(vectors, len(parts))])
        for message, parts in zip(messages, pieces, strict=True)
    ]
    save(embedder.name, embedded)


def statements() -> ModuleType:
    """The module with the statements for this database."""
    return backlog_by_scope if scopes.is_distributed() else backlog_sql


def _embedded(text: str) -> str:
    """The part of a text to embed. It starts at the first word, so that every text with words gets a vector."""
    return text[: len(text) - len(text.lstrip()) + EMBEDDED_CHARACTERS]


def _embed_alone(embedder: Embedder, message: Text) -> bool:
    try:
        embed(embedder, [message])
    except EmbedderError as error:
        log.warning("message %s could not be embedded; the next attempt is in a minute: %s", message.id, error)
        put_off(message, timezone.now() + RETRY)
        return False
    return True


class Worker(threading.Thread):
    """Works off the backlog beside live traffic until stopped. Each server process has one."""

    def __init__(self, embedder: Callable[[], Embedder]) -> None:
        super().__init__(name="backlog", daemon=True)
        self._embedder = embedder
        self._wake = threading.Event()
        self._stopping = False
        self._indexed = float("-inf")

    def wake(self) -> None:
        """Start at once: there is a new message."""
        self._wake.set()

    def stop(self, seconds: float = 10) -> None:
        """Finish the current batch, then end. Waits `seconds` at most; the lease of an abandoned batch runs out."""
        self._stopping = True
        self._wake.set()
        self.join(seconds)

    def _index(self) -> bool:
        if time.monotonic() - self._indexed < INDEX_SECONDS:
            return False
        self._indexed = time.monotonic()  # even if it fails
        made = indexes.create_next()
        if made:
            self._indexed = float("-inf")
        return made

    def run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                busy = work_off(self._embedder()) == BATCH or self._index()  # a smaller batch was all that is due
            except EmbedderError as error:
                log.warning("embedding waits: %s", error)
                busy = False
            except DatabaseError as error:
                log.warning("embedding waits for the database (%s)", type(error).__name__)
                busy = False
            except Exception:
                log.exception("the backlog failed")
                busy = False
            if not busy:
                if connection.needs_rollback or connection.errors_occurred:
                    connection.close()
                self._wake.wait(IDLE_SECONDS)
        connection.close()
