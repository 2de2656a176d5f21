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

from django.db import DatabaseError, connection, transaction
from django.db.models import Q
from django.utils import timezone

from conversations import indexes
from conversations.commits import commit_soon
from conversations.embedders.base import Embedder, EmbedderError, Vectors
from conversations.embedders.pieces import Piece, split
from conversations.embedding import model_of
from conversations.models import Embedding, EmbeddingModel, Message

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
    messages = _lease(batch)
    if not messages:
        return 0
    try:
        embed(embedder, messages)
    except EmbedderError:
        if len(messages) == 1:
            _later(messages[0])
            raise
        failures = [message for message in messages if not _embed_alone(embedder, message)]
        if len(failures) == len(messages):
            raise
    return len(messages)


def save_vectors(
    *, message_id: int, instance_id: int, model: EmbeddingModel, pieces: Sequence[Piece], vectors: Vectors
) -> None:
    """Write a message's vectors and take it off the backlog, unless another model has come into use meanwhile."""
    with transaction.atomic():
        commit_soon()  # lost vectors would be made again
        if not Message.objects.filter(pk=message_id).select_for_update().exists():
            return  # forgotten meanwhile
        add_vectors(message_id=message_id, instance_id=instance_id, model=model, pieces=pieces, vectors=vectors)
        # Asked after writing, because a change of model waits for all writers (see reembedding.py).
        overtaken = EmbeddingModel.objects.filter(active=True).exclude(pk=model.pk).exists()
        due = timezone.now() + OVERTAKEN if overtaken else None
        Message.objects.filter(pk=message_id).update(embed_due=due)


def save_computed_vectors(
    embedder: Embedder, *, message_id: int, instance_id: int, text: str, vectors: Vectors
) -> None:
    """Save vectors that were computed for a message's text before it was stored, where the worker would make the same.

    That is where the text is a single piece. Longer texts are left to the worker.
    """
    if piece := single_piece(embedder, text):
        model = model_of(embedder)
        save_vectors(message_id=message_id, instance_id=instance_id, model=model, pieces=[piece], vectors=vectors)


def single_piece(embedder: Embedder, text: str) -> Piece | None:
    """The piece of a text that has just one, None for any other."""
    pieces = split(text, embedder.count) if len(text) <= SHORT_TEXT else []
    return pieces[0] if len(pieces) == 1 else None


def add_vectors(
    *, message_id: int, instance_id: int, model: EmbeddingModel, pieces: Sequence[Piece], vectors: Vectors
) -> None:
    """Write a message's vectors. Existing ones of the same model are kept."""
    Embedding.objects.bulk_create(
        [
            Embedding(
                message_id=message_id,
                instance_id=instance_id,
                model=model,
                start=piece.start,
                end=piece.end,
                vector=vector,
            )
            for piece, vector in zip(pieces, vectors, strict=True)
        ],
        ignore_conflicts=True,
    )


def _lease(batch: int) -> list[Message]:
    now = timezone.now()
    with transaction.atomic():
        # No lease ends later than LEASE from now, unless the clock was set back.
        is_due = Q(embed_due__lte=now) | Q(embed_due__gt=now + LEASE)
        due = Message.objects.backlog().filter(is_due).select_for_update(skip_locked=True)
        messages = list(due.only("id", "instance_id", "content")[:batch])
        Message.objects.filter(pk__in=[message.pk for message in messages]).update(embed_due=now + LEASE)
    return messages


def embed(embedder: Embedder, messages: Sequence[Message], save: Callable[..., None] = save_vectors) -> None:
    """Make and write the vectors of these messages; `save` writes one message's. On EmbedderError, none are written."""
    pieces = [split(_embedded(message.content), embedder.count) for message in messages]
    texts = [m.content[p.start : p.end] for m, parts in zip(messages, pieces, strict=True) for p in parts]
    vectors = embedder.embed(texts)
    model = model_of(embedder)
    at = 0
    for message, parts in zip(messages, pieces, strict=True):
        save(
            message_id=message.pk,
            instance_id=message.instance_id,
            model=model,
            pieces=parts,
            vectors=vectors[at : at + len(parts)],
        )
        at += len(parts)


def _embedded(text: str) -> str:
    """The part of a text to embed. It starts at the first word, so that every text with words gets a vector."""
    return text[: len(text) - len(text.lstrip()) + EMBEDDED_CHARACTERS]


def _embed_alone(embedder: Embedder, message: Message) -> bool:
    try:
        embed(embedder, [message])
    except EmbedderError as error:
        log.warning("message %s could not be embedded; the next attempt is in a minute: %s", message.pk, error)
        _later(message)
        return False
    return True


def _later(message: Message) -> None:
    Message.objects.filter(pk=message.pk).update(embed_due=timezone.now() + RETRY)


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
                busy = bool(work_off(self._embedder())) or self._index()
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
