"""Embeds identical texts once: the vectors of the latest texts are kept, under a hash of the text.

A question is embedded when it recalls, and again when it is stored; agents send the same text in scope after scope; and
a client that tries again asks again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from conversations.embedders.base import Embedder, Vectors

KEPT = 1_000  # vectors: 1.5 MB of the local model's


class Remembering:
    """An embedder that remembers what it has embedded lately. Thread-safe."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._lock = threading.Lock()
        self._vectors: OrderedDict[bytes, Vectors] = OrderedDict()

    @property
    def name(self) -> str:
        return self._embedder.name

    @property
    def dimensions(self) -> int:
        return self._embedder.dimensions

    def embed(self, texts: Sequence[str], *, later: bool = False) -> Vectors:
        keys = [_hash(text) for text in texts]
        found = {key: vector for key in keys if (vector := self._known(key)) is not None}
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in found}
        if missing:
            found |= zip(missing, self._embedder.embed([*missing.values()], later=later), strict=True)
            with self._lock:
                self._vectors |= {key: found[key] for key in missing}
                while len(self._vectors) > KEPT:
                    self._vectors.popitem(last=False)
        return np.array([found[key] for key in keys], np.float32).reshape(len(keys), self.dimensions)

    def count(self, text: str) -> int:
        return self._embedder.count(text)

    def close(self) -> None:
        self._embedder.close()

    def _known(self, key: bytes) -> Vectors | None:
        with self._lock:
            if key in self._vectors:
                self._vectors.move_to_end(key)
            return self._vectors.get(key)


def _hash(text: str) -> bytes:
    return blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()
