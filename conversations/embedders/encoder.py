"""Edge: runs a BERT model in onnxruntime, on this machine's processor: tokens -> one vector for each text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from conversations.embedders.base import Vectors
from conversations.embedders.bert import OUTPUT, Bert, graph

Words = Callable[[NDArray[np.int64]], NDArray[np.float32]]


class Encoder:
    """A loaded model. Thread-safe, as onnxruntime's sessions are; it takes memory for each thread that runs it."""

    def __init__(self, model: Bert, words: Words, *, threads: int) -> None:
        """`words` gives the vectors of tokens."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False  # it plans for one shape, and ours vary
        # onnxruntime is untyped.
        self._session: Any = onnxruntime.InferenceSession(graph(model), options, providers=["CPUExecutionProvider"])
        self._words = words

    def vectors(self, rows: Sequence[Sequence[int]]) -> Vectors:
        """The mean of each text's states, at length 1. A row is a text's tokens."""
        ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
        mask = np.zeros_like(ids, np.int32)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
            mask[index, : len(row)] = 1
        inputs = {"words": self._words(ids), "positions": np.arange(ids.shape[1]), "mask": mask}
        (states,) = self._session.run([OUTPUT], inputs)
        # The sum over each text's own tokens has the same direction as their mean.
        sums: Vectors = np.einsum("btd,bt->bd", states, mask.astype(np.float32))
        sums /= np.linalg.norm(sums, axis=1, keepdims=True)
        return sums
