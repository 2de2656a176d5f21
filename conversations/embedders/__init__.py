"""Edge: texts -> vectors, by the local model or by any OpenAI-compatible `/v1/embeddings` endpoint.

An embedder blocks, and may be called from several threads at once. Messages of EmbedderError say what to do
and are safe to log: they never hold a text, a key, or what an endpoint answered (which may quote both).
"""

from collections.abc import Sequence
from typing import Protocol
from urllib.parse import urldefrag, urlsplit

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


SPEC_HELP = 'write "local", or an endpoint and its model as "https://api.openai.com/v1#text-embedding-3-small"'


def make_embedder(spec: str, *, api_key: str | None, dimensions: int | None, threads: int = 1) -> Embedder:
    """`dimensions` belongs to a remote model and `threads` to the local one; neither touches the other."""
    # The edges are imported where they are chosen: the local one brings 40 MB of onnxruntime along.
    if spec == "local":
        from conversations.embedders.local import LocalEmbedder

        return LocalEmbedder(threads=threads)

    from conversations.embedders.remote import RemoteEmbedder

    base_url, model = urldefrag(spec)
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not model:
        raise ValueError(f"The embedder is not understood: {SPEC_HELP}.")
    if parts.username or parts.password or parts.query:
        raise ValueError("The embedder's address holds a user, a password or a query: give its key separately.")
    if dimensions is None or dimensions < 1:
        raise ValueError(f"The remote embedding model {model} needs its number of dimensions, such as 1536.")
    return RemoteEmbedder(base_url, model, api_key=api_key, dimensions=dimensions)
