"""Changing the embedding model beside live traffic.

Vectors of the new model are made next to those in use. Recall uses the old ones until every message has new ones; then
one transaction switches over. A killed run continues where it stopped, since its progress is in the table.

No message is left without a vector: the switch waits until no process is writing one, and is postponed while a message
lacks a new one. A process that still embeds with the old model afterwards notices when it writes, and leaves the
message on the backlog (backlog_sql.write).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django.db import OperationalError, connection, transaction
from django.db.models import Exists, OuterRef

from conversations import indexes
from conversations.backlog import embed, statements
from conversations.backlog_sql import Embedded
from conversations.embedders.base import Embedder, EmbedderError
from conversations.embedding import NOTICED_WITHIN, model_of
from conversations.locks import held
from conversations.models import Embedding, EmbeddingModel, Message
from conversations.nearest import MOST_DIMENSIONS
from conversations.querysets import MessageQuerySet

BATCH = 64
DROP_BATCH = 10_000
ONE_AT_A_TIME = 0x5265_656D  # the advisory lock of the process that changes the model
WAIT_FOR_WRITERS = "2s"

log = logging.getLogger(__name__)

Progress = Callable[[int], object]  # called with the number of messages done since the last call


class ReembeddingError(Exception):
    """The change cannot continue. One sentence, with advice."""


@contextmanager
def alone() -> Iterator[None]:
    """Hold the lock that lets one process at a time change models. Raises ReembeddingError if another has it."""
    with held(ONE_AT_A_TIME) as free:
        if not free:
            raise ReembeddingError("Another process is changing the embedding model: wait until it is done.")
        yield


def begin(embedder: Embedder, spec: str) -> EmbeddingModel:
    """The row of the new model, with its spec. Raises ReembeddingError if its vectors cannot be used."""
    if embedder.dimensions > MOST_DIMENSIONS:
        raise ReembeddingError(
            f"Vectors of {embedder.dimensions} dimensions cannot be indexed: choose a model of at most "
            f"{MOST_DIMENSIONS}, or shorten them with --dimensions."
        )
    model = model_of(embedder)
    if model.dimensions != embedder.dimensions:
        raise ReembeddingError(
            f"Vectors of {model.name} with {model.dimensions} dimensions already exist: "
            "drop them first with manage.py reembed --drop-old."
        )
    EmbeddingModel.objects.filter(pk=model.pk).update(spec=spec)
    return model


def to_do(model: EmbeddingModel) -> tuple[int, int]:
    """The number of messages with words, and the number of those that lack vectors of the model."""
    return _with_words().count(), _lacking(model).count()


def embed_all(embedder: Embedder, model: EmbeddingModel, progress: Progress) -> None:
    """Make the model's vectors for every message that lacks them, and indexes for large scopes.

    Raises EmbedderError if the embedder fails, and ReembeddingError if it fails only for some messages.
    """
    failed: list[int] = []
    for messages in _in_order(_lacking(model)):
        try:
            embed(embedder, messages, save=_save)
        except EmbedderError:
            apart = [message.pk for message in messages if not _embed_alone(embedder, message)]
            if len(apart) == sum(bool(message.content.strip()) for message in messages):
                raise  # the embedder is at fault, not the messages
            failed += apart
        progress(len(messages))
    if failed:
        ids = ", ".join(map(str, failed[:10]))
        raise ReembeddingError(
            f"{len(failed)} messages could not be embedded (ids {ids}), and the model is not in use yet: run it again."
        )
    for scope in indexes.without_index(model):
        indexes.create(scope.instance_id, model)


def switch(model: EmbeddingModel) -> bool:
    """Switch to the model unless a message lacks its vector. Returns whether it is in use now."""
    try:
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute(f"SET LOCAL lock_timeout = '{WAIT_FOR_WRITERS}'")
                cursor.execute("LOCK TABLE conversations_embedding IN SHARE ROW EXCLUSIVE MODE")
            lacking = _lacking(model).filter(embed_due=None).only("content")
            if any(message.content.strip() for message in lacking.iterator()):
                return False
            EmbeddingModel.objects.filter(active=True).exclude(pk=model.pk).update(active=False)
            EmbeddingModel.objects.filter(pk=model.pk).update(active=True)
            waiting = Message.objects.filter(embed_due__isnull=False)
            waiting.filter(Exists(_vectors(model))).update(embed_due=None)
    except OperationalError as error:
        if getattr(error.__cause__, "sqlstate", "") != "55P03":  # lock_not_available
            raise
        return False
    return True


def reembed(embedder: Embedder, model: EmbeddingModel, progress: Progress) -> None:
    """Embed everything and switch over. Raises the errors of embed_all; a later run continues from there."""
    while True:
        embed_all(embedder, model, progress)
        if switch(model):
            return


def drop_old(progress: Progress, *, wait: bool) -> int:
    """Remove the vectors and indexes of all models that are not in use. Returns the number of vectors.

    `wait` gives servers time to notice a recent switch. Raises ReembeddingError if no model is in use.
    """
    if not EmbeddingModel.objects.filter(active=True).exists():
        raise ReembeddingError("No embedding model is in use yet: start the server once.")
    if wait:
        time.sleep(2 * NOTICED_WITHIN)
    dropped = 0
    for model in EmbeddingModel.objects.filter(active=False):
        indexes.drop_of_model(model.pk)
        while ids := list(Embedding.objects.filter(model=model).values_list("pk", flat=True)[:DROP_BATCH]):
            Embedding.objects.filter(pk__in=ids).delete()
            dropped += len(ids)
            progress(len(ids))
        model.delete()
    return dropped


def _embed_alone(embedder: Embedder, message: Message) -> bool:
    try:
        embed(embedder, [message], save=_save)
    except EmbedderError as error:
        log.warning("message %s could not be embedded: %s", message.pk, error)
        return False
    return True


def _save(model: str, embedded: Sequence[Embedded]) -> None:
    statements().write(model, embedded, overtaken=None, take_off=False)


def _with_words() -> MessageQuerySet:
    return Message.objects.exclude(content="").without_scratch()


def _lacking(model: EmbeddingModel) -> MessageQuerySet:
    return _with_words().filter(~Exists(_vectors(model)))


def _vectors(model: EmbeddingModel) -> Any:
    return Embedding.objects.filter(message=OuterRef("pk"), instance=OuterRef("instance_id"), model=model)


def _in_order(messages: MessageQuerySet) -> Iterator[Sequence[Message]]:
    last = 0
    columns = "id", "instance_id", "content"
    while batch := list(messages.filter(pk__gt=last).only(*columns).order_by("pk")[:BATCH]):
        last = batch[-1].pk
        yield batch
