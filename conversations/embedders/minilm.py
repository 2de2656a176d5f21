"""Pure: the weights of all-MiniLM-L6-v2, read from the package's file.

The package's own graph turns its weights of one byte into floats when it loads, 90 MB in each process, and multiplies
floats. Ours (bert.py) keeps the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from conversations.embedders.bert import Bert, Layer, Norm, Product
from conversations.embedders.onnx_format import Array, read

LAYERS, HEADS = 6, 12
BLOCK = 32  # elements of a row that share a scale
EPSILON = 1e-12


@dataclass(frozen=True, slots=True)
class Words:
    """A vector for each token: bytes, and one scale."""

    rows: Array
    scale: Array

    def __call__(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors of tokens, in the shape of `ids` x width."""
        floats: NDArray[np.float32] = self.rows[ids].astype(np.float32)
        floats *= self.scale if self.scale.size == 1 else self.scale[ids]
        return floats


def weights(package: memoryview) -> tuple[Bert, Words]:
    """The model in the package's file."""
    model = read(package)
    # Six to a layer: query, key, value, output of the attention; both of the feed-forward network.
    products = [name for _, name in model.products if f"{name}_q" in model.arrays]
    embeddings = "inner.embeddings"
    # All tokens are of the first type, as there is one text only.
    places = _floats(model.arrays, f"{embeddings}.position_embeddings.weight")
    places = places + model.arrays[f"{embeddings}.token_type_embeddings.weight"][0]
    layers = [_layer(model.arrays, number, products[6 * number : 6 * number + 6]) for number in range(LAYERS)]
    bert = Bert(HEADS, EPSILON, places, _norm(model.arrays, f"{embeddings}.LayerNorm"), layers)
    name = f"{embeddings}.word_embeddings.weight"
    return bert, Words(model.arrays[f"{name}_q"], model.arrays[f"{name}_scale"])


def _layer(arrays: Mapping[str, Array], number: int, names: Sequence[str]) -> Layer:
    of = f"inner.encoder.layer.{number}"
    query, key, value, output, wide, narrow = (_product(arrays, name) for name in names)
    biases = [arrays[f"{of}.attention.self.{part}.bias"] for part in ("query", "key", "value")]
    return Layer(
        query=query,
        key=key,
        value=value,
        attention_bias=np.concatenate(biases),
        output=output,
        output_bias=arrays[f"{of}.attention.output.dense.bias"],
        output_norm=_norm(arrays, f"{of}.attention.output.LayerNorm"),
        wide=wide,
        wide_bias=arrays[f"{of}.intermediate.dense.bias"],
        narrow=narrow,
        narrow_bias=arrays[f"{of}.output.dense.bias"],
        narrow_norm=_norm(arrays, f"{of}.output.LayerNorm"),
    )


def _norm(arrays: Mapping[str, Array], name: str) -> Norm:
    return Norm(arrays[f"{name}.weight"], arrays[f"{name}.bias"])


def _product(arrays: Mapping[str, Array], name: str) -> Product:
    """The package has signed bytes; the operator wants them from 0 to 255."""
    rows = arrays[f"{name}_q"].T
    columns, width = rows.shape
    blocks = (rows.astype(np.int16) + 128).astype(np.uint8).reshape(columns, width // BLOCK, BLOCK)
    return Product(blocks, np.repeat(arrays[f"{name}_scale"].reshape(-1), width // BLOCK), bits=8)


def _floats(arrays: Mapping[str, Array], name: str) -> Array:
    return arrays[f"{name}_q"].astype(np.float32) * arrays[f"{name}_scale"]
