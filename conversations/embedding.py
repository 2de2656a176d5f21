"""Which embedding model is in use, and its embedder.

The settings name the model for the first start. After that, the database says which one is in use, so that
`manage.py reembed` can change it under running servers, which check every two seconds.
"""

from __future__ import annotations

import logging
import threading
import time

from django.conf import settings
from django.db import DatabaseError, IntegrityError, transaction

from conversations.embedders.base import Embedder, EmbedderError
from conversations.embedders.factory import LOCAL, make_embedder
from conversations.embedders.remembering import Remembering
from conversations.models import EmbeddingModel

NOTICED_WITHIN = 2.0  # seconds between two checks of which model is in use
RETRY_SECONDS = 60.0

log = logging.getLogger(__name__)


def make(spec: str, dimensions: int | None) -> Embedder:
    """The embedder for a spec (see RESERVOIR_EMBEDDER), with the key from the settings. Raises ValueError."""
    return make_embedder(spec, api_key=settings.RESERVOIR_EMBEDDER_KEY or None, dimensions=dimensions or None)


def configured_embedder() -> Embedder:
    """The embedder that the settings name. Raises ValueError if they are invalid."""
    return make(settings.RESERVOIR_EMBEDDER, settings.RESERVOIR_EMBEDDER_DIMENSIONS)


def model_of(embedder: Embedder) -> EmbeddingModel:
    """The row of an embedder's model, created on first use."""
    model, _ = EmbeddingModel.objects.get_or_create(name=embedder.name, defaults={"dimensions": embedder.dimensions})
    return model


def active_model() -> EmbeddingModel:
    """The model in use. On the first start, the model in the settings becomes that."""
    if active := EmbeddingModel.objects.filter(active=True).first():
        return active
    embedder = configured_embedder()
    embedder.close()
    try:
        with transaction.atomic():
            model = model_of(embedder)
            model.spec, model.active = settings.RESERVOIR_EMBEDDER, True
            model.save()
        return model
    except IntegrityError:  # another process was faster
        return EmbeddingModel.objects.get(active=True)


def active_embedder() -> Embedder:
    """An embedder for the model in use. Raises EmbedderError if it is not available any more."""
    return _embedder_of(active_model())


def disagreement() -> str | None:
    """A description of how the settings and the database disagree about the model in use, or None."""
    active = active_model()
    dimensions = settings.RESERVOIR_EMBEDDER_DIMENSIONS
    same = active.spec == settings.RESERVOIR_EMBEDDER
    if same and (active.spec in LOCAL or active.dimensions == dimensions):
        return None
    return (
        f"RESERVOIR_EMBEDDER names {_described(settings.RESERVOIR_EMBEDDER, dimensions)}, "
        f"but stored messages were embedded with {_described(active.spec, active.dimensions)}, which stays in use"
    )


class EmbedderInUse:
    """Returns the embedder for the model in use, and follows a change of that model. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._embedder: Embedder | None = None
        self._model: tuple[str, str, int] | None = None  # None: not read from the database yet
        self._looked = float("-inf")
        self._looking = False  # a check or a change is under way

    def __call__(self) -> Embedder:
        """The embedder, created on first use. Asks the database at intervals; while it is unreachable, nothing changes.

        Raises EmbedderError if the model in use has no embedder.
        """
        with self._lock:
            if self._embedder is None:
                self._begin()
                assert self._embedder is not None
                return self._embedder
            embedder = self._embedder
            due = time.monotonic() - self._looked > NOTICED_WITHIN and not self._looking
            self._looking = self._looking or due
        if due:
            self._look()  # outside the lock: a stalled database would block every thread
        return embedder

    def close(self) -> None:
        """Close the embedder for good."""
        with self._lock:
            if self._embedder:
                self._embedder.close()
                self._embedder = None

    def _begin(self) -> None:
        try:
            with transaction.atomic():
                model = active_model()
                problem = disagreement()
        except DatabaseError:
            self._embedder = Remembering(configured_embedder())
            return
        if problem:
            log.warning("%s.", problem)
        self._embedder, self._model = Remembering(_embedder_of(model)), _key(model)
        self._looked = time.monotonic()

    def _look(self) -> None:
        other = None
        try:
            with transaction.atomic():
                model = active_model()
            other = model if _key(model) != self._model else None
        except DatabaseError:
            pass
        finally:
            self._looked, self._looking = time.monotonic(), other is not None
        if other:
            threading.Thread(target=self._change, args=[other], name="embedder-change", daemon=True).start()

    def _change(self, model: EmbeddingModel) -> None:
        """Load the new embedder while the old one stays in use, then replace that.

        The old one is left to the garbage collector, since a thread may still be embedding with it.
        """
        try:
            embedder = Remembering(_embedder_of(model))
        except EmbedderError as error:
            log.error("%s", error)
            self._looked = time.monotonic() + RETRY_SECONDS
            self._looking = False
            return
        try:
            embedder.embed(["warm"])
        except EmbedderError as error:
            log.warning("recall uses words only: %s", error)
        log.info("embedding with %s from now on", model.name)
        with self._lock:
            self._embedder, self._model = embedder, _key(model)
            self._looking = False


# One for the process: all threads share it, and with it the memory that the model takes.
in_use = EmbedderInUse()


def _embedder_of(model: EmbeddingModel) -> Embedder:
    try:
        embedder = make(model.spec, model.dimensions)
    except ValueError as error:
        raise EmbedderError(f"The embedding model in use, {model.name}, is not available: {error}") from None
    if embedder.name != model.name:
        embedder.close()
        raise EmbedderError(
            f"{_described(model.spec, model.dimensions)} is {embedder.name} now, but stored messages were embedded "
            f"with {model.name}: run manage.py reembed --model {model.spec}."
        )
    return embedder


def _key(model: EmbeddingModel) -> tuple[str, str, int]:
    return model.name, model.spec, model.dimensions


def _described(spec: str, dimensions: int) -> str:
    return spec if spec in LOCAL else f"{spec} ({dimensions} dimensions)"
