"""Which embedding model is in use, and its embedder.

The settings name the model on the first start. From then on the database says which one is in use, so that
`manage.py reembed` can change it under servers that are running: each looks every two seconds.
"""

from __future__ import annotations

import logging
import threading
import time

from django.conf import settings
from django.db import DatabaseError, IntegrityError, transaction

from conversations.embedders.base import Embedder, EmbedderError
from conversations.embedders.factory import make_embedder
from conversations.models import EmbeddingModel

NOTICED_WITHIN = 2.0  # seconds after which a process that embeds looks whether another model is in use
RETRY_SECONDS = 60.0

log = logging.getLogger(__name__)


def make(spec: str, dimensions: int | None) -> Embedder:
    """The embedder that a spec names, as in RESERVOIR_EMBEDDER, with the key of the settings. Raises ValueError."""
    return make_embedder(spec, api_key=settings.RESERVOIR_EMBEDDER_KEY or None, dimensions=dimensions or None)


def configured_embedder() -> Embedder:
    """The embedder that the settings name. Raises ValueError where they make no sense."""
    return make(settings.RESERVOIR_EMBEDDER, settings.RESERVOIR_EMBEDDER_DIMENSIONS)


def model_of(embedder: Embedder) -> EmbeddingModel:
    """The row of an embedder's model, made on first use."""
    model, _ = EmbeddingModel.objects.get_or_create(name=embedder.name, defaults={"dimensions": embedder.dimensions})
    return model


def active_model() -> EmbeddingModel:
    """The model in use. On the first start that becomes the one of the settings."""
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
    """An embedder of the model in use. Raises EmbedderError where there is none any more."""
    return _embedder_of(active_model())


def disagreement() -> str | None:
    """What the settings and the database say of the model in use, where that is not the same."""
    active = active_model()
    dimensions = settings.RESERVOIR_EMBEDDER_DIMENSIONS
    same = active.spec == settings.RESERVOIR_EMBEDDER
    if same and (active.spec == "local" or active.dimensions == dimensions):
        return None
    return (
        f"RESERVOIR_EMBEDDER names {_described(settings.RESERVOIR_EMBEDDER, dimensions)}, "
        f"but what is stored was embedded with {_described(active.spec, active.dimensions)}, which is used"
    )


class EmbedderInUse:
    """Gives the embedder of the model in use, and notices when that becomes another one. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._embedder: Embedder | None = None
        self._model: tuple[str, str, int] | None = None  # None: the database has not been asked yet
        self._looked = float("-inf")
        self._looking = False  # or changing

    def __call__(self) -> Embedder:
        """The embedder, loaded on first use. Asks the database at times; while that is away, nothing changes.

        Raises EmbedderError where there is none.
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
            self._look()  # not under the lock: a database that stands still would hold up everybody
        return embedder

    def close(self) -> None:
        """Let go of it for good."""
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
            self._embedder = configured_embedder()
            return
        if problem:
            log.warning("%s.", problem)
        self._embedder, self._model = _embedder_of(model), _key(model)
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
        """Load another embedder while the one that is there goes on, then put it in its place.

        The one before is left to the garbage collector: somebody may be embedding with it.
        """
        try:
            embedder = _embedder_of(model)
        except EmbedderError as error:
            log.error("%s", error)
            self._looked = time.monotonic() + RETRY_SECONDS
            self._looking = False
            return
        try:
            embedder.embed(["warm"])
        except EmbedderError as error:
            log.warning("recall goes by words alone: %s", error)
        log.info("embedding with %s from now on", model.name)
        with self._lock:
            self._embedder, self._model = embedder, _key(model)
            self._looking = False


# Of this process: whoever embeds here shares it, and with it the model's memory.
in_use = EmbedderInUse()


def _embedder_of(model: EmbeddingModel) -> Embedder:
    try:
        embedder = make(model.spec, model.dimensions)
    except ValueError as error:
        raise EmbedderError(f"The embedding model in use, {model.name}, cannot be asked: {error}") from None
    if embedder.name != model.name:
        embedder.close()
        raise EmbedderError(
            f"{_described(model.spec, model.dimensions)} is {embedder.name} now, but what is stored was embedded with "
            f"{model.name}: run manage.py reembed --model {model.spec}."
        )
    return embedder


def _key(model: EmbeddingModel) -> tuple[str, str, int]:
    return model.name, model.spec, model.dimensions


def _described(spec: str, dimensions: int) -> str:
    return spec if spec == "local" else f"{spec} ({dimensions} dimensions)"
