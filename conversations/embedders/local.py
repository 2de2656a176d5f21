"""Edge: a model from an installed package, on this machine's processor. Nothing is downloaded.

It runs in a graph of our own (bert.py). A process that embeds long texts takes 160 MB with all-MiniLM-L6-v2 and 470 MB
with multilingual-e5-small, most of it for the pieces of words of a hundred languages.
"""

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from conversations.embedders.base import Vectors, well_formed
from conversations.embedders.encoder import Encoder
from conversations.embedders.lanes import Lanes

LONGEST = 16_384
"""Characters of a text that are tokenized. A model reads a few hundred tokens only, and the tokenizer would take
seconds for megabytes and block every other thread."""


class Loaded(NamedTuple):
    tokens: Callable[[str], list[int]]  # of a text, as many as the model reads
    count: Callable[[str], int]  # all of a text, without those that the model itself adds
    encoder: Encoder


class Model(NamedTuple):
    name: str
    load: Callable[[int], Loaded]  # with a number of threads; raises EmbedderError
    dimensions: int = 384


class LocalEmbedder:
    def __init__(self, model: Model, *, threads: int = 1) -> None:
        self.name = model.name
        self.dimensions = model.dimensions
        self._model = model
        self._threads = threads
        self._in_memory: Loaded | None = None
        self._loading = threading.Lock()
        self._lanes = Lanes(lambda rows: self._loaded().encoder.vectors(rows))

    def embed(self, texts: Sequence[str], *, later: bool = False) -> Vectors:
        if not texts:
            return np.empty((0, self.dimensions), np.float32)
        tokens = self._loaded().tokens
        rows = [tokens(well_formed(text[:LONGEST])) for text in texts]
        return np.stack(self._lanes.messages(rows) if later else self._lanes.questions(rows))

    def count(self, text: str) -> int:
        return self._loaded().count(well_formed(text))

    def close(self) -> None:
        self._lanes.close()
        with self._loading:
            self._in_memory = None

    def _loaded(self) -> Loaded:
        with self._loading:
            if self._in_memory is None:
                self._in_memory = self._model.load(self._threads)
            return self._in_memory
