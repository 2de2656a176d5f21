"""What an embedder is: texts -> vectors, by the local model or an OpenAI-compatible `/v1/embeddings` endpoint.

An embedder blocks, and several threads may call it at once. Messages of EmbedderError say what to do and are safe to
log: they never contain a text, a key, or an endpoint's answer, which may quote both.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
"""One row for each text, normalised to length 1, so that the inner product of two rows is their cosine."""


ENGLISH_ONLY = ("all-MiniLM-L6-v2-int8",)
"""Names of models that tell little about texts in scripts without spaces: they know single characters at best."""


class EmbedderError(Exception):
    """The texts were not embedded. A later attempt may succeed."""


class Embedder(Protocol):
    @property
    def name(self) -> str:
        """Stored with each vector: vectors are comparable if and only if their names are equal."""

    @property
    def dimensions(self) -> int: ...

    def embed(self, texts: Sequence[str], *, later: bool = False) -> Vectors:
        """The vectors of the texts, in order. `later`: texts of other threads may go first. Raises EmbedderError."""

    def count(self, text: str) -> int:
        """The number of tokens of the text; an estimate for a remote model."""

    def close(self) -> None:
        """Release connections and memory for good."""


def well_formed(text: str) -> str:
    """The text without lone surrogates, which JSON may contain, but UTF-8 and tokenizers refuse."""
    return text.encode("utf-8", "replace").decode()
