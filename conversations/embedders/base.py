"""What an embedder is: texts -> vectors, by the local model or an OpenAI-compatible `/v1/embeddings` endpoint.

An embedder blocks, and several threads may call it at once. Messages of EmbedderError say what to do and are safe to
log: they never contain a text, a key, or an endpoint's answer, which may quote both.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
"""One row for each text, each of length 1, so that the inner product of two rows is their cosine."""


class EmbedderError(Exception):
    """The texts were not embedded; trying the same again later may help."""


class Embedder(Protocol):
    @property
    def name(self) -> str:
        """Stored with each vector: vectors are comparable if, and only if, their names are equal."""

    @property
    def dimensions(self) -> int: ...

    def embed(self, texts: Sequence[str]) -> Vectors: ...

    def count(self, text: str) -> int:
        """How many tokens of the model's window the text takes; an estimate where the model is remote."""

    def close(self) -> None:
        """Let go of connections and memory, for good."""
