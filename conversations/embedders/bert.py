"""Pure: a BERT model (Devlin et al. 2018, arXiv 1810.04805) as a graph of onnxruntime's fused operators.

Weights of one byte or half a byte stay as they are; activations are rounded to one byte for each block of a row, so a
row's result does not depend on the rows beside it. docs/decisions/a-graph-of-our-own.md has the figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from conversations.embedders.onnx_format import Array, Graph

INPUTS: dict[str, tuple[type, int]] = {"words": (np.float32, 3), "positions": (np.int64, 1), "mask": (np.int32, 2)}
OUTPUT = "states"


@dataclass(frozen=True, slots=True)
class Product:
    """The weights of a matrix product, in blocks of elements of a column that share a scale.

    `blocks` are columns x blocks x bytes, unsigned, around the middle of what `bits` can hold; `scales` are one for
    each block, columns first.
    """

    blocks: Array
    scales: Array
    bits: int


@dataclass(frozen=True, slots=True)
class Norm:
    weight: Array
    bias: Array


@dataclass(frozen=True, slots=True)
class Layer:
    query: Product
    key: Product
    value: Product
    attention_bias: Array  # of query, key and value
    output: Product
    output_bias: Array
    output_norm: Norm
    wide: Product
    wide_bias: Array
    narrow: Product
    narrow_bias: Array
    narrow_norm: Norm


@dataclass(frozen=True, slots=True)
class Bert:
    """All but the vectors of words, which are looked up outside the graph."""

    heads: int
    epsilon: float
    places: Array  # a vector for each position; that of the one token type is added
    norm: Norm
    layers: Sequence[Layer]


def graph(model: Bert) -> bytes:
    """The file to run: the vectors of words (texts x tokens x width), `positions` of tokens, `mask` of texts x tokens.

    Its output is a state for each token.
    """
    return _Writer(model).written()


class _Writer:
    def __init__(self, model: Bert) -> None:
        self._model = model
        self._graph = Graph()

    def written(self) -> bytes:
        graph, model = self._graph, self._model
        graph.node("Gather", [graph.constant("places", model.places), "positions"], "place")
        graph.node("Add", ["words", "place"], "embedded")
        norm = self._norm(model.norm, "first")
        states = graph.node("LayerNormalization", ["embedded", *norm], "states_0", axis=-1, epsilon=model.epsilon)
        for number, layer in enumerate(model.layers):
            states = self._layer(layer, f"layer_{number}", states)
        graph.node("Identity", [states], OUTPUT)
        return graph.file(INPUTS, OUTPUT)

    def _layer(self, layer: Layer, name: str, states: str) -> str:
        graph = self._graph
        parts = [
            self._product(states, product, f"{name}_{part}")
            for part, product in (("query", layer.query), ("key", layer.key), ("value", layer.value))
        ]
        bias = graph.constant(f"{name}_attention_bias", layer.attention_bias)
        heads = self._model.heads
        attended = graph.fused("MultiHeadAttention", [*parts, bias, "mask"], f"{name}_attended", num_heads=heads)
        output = self._product(attended, layer.output, f"{name}_output")
        middle = self._added(output, states, layer.output_norm, layer.output_bias, f"{name}_middle")
        wide = self._product(middle, layer.wide, f"{name}_wide")
        bent = graph.fused("BiasGelu", [wide, graph.constant(f"{name}_wide_bias", layer.wide_bias)], f"{name}_bent")
        narrow = self._product(bent, layer.narrow, f"{name}_narrow")
        return self._added(narrow, middle, layer.narrow_norm, layer.narrow_bias, f"{name}_end")

    def _added(self, product: str, states: str, norm: Norm, bias: Array, name: str) -> str:
        """The product and its bias, added to the states and normalised."""
        given = [*self._norm(norm, name), self._graph.constant(f"{name}_bias", bias)]
        epsilon = self._model.epsilon
        return self._graph.fused("SkipLayerNormalization", [product, states, *given], name, epsilon=epsilon)

    def _norm(self, norm: Norm, name: str) -> list[str]:
        constant = self._graph.constant
        return [constant(f"{name}_norm_weight", norm.weight), constant(f"{name}_norm_bias", norm.bias)]

    def _product(self, states: str, product: Product, name: str) -> str:
        columns, blocks, size = product.blocks.shape
        block = size * 8 // product.bits
        inputs = [
            self._graph.constant(f"{name}_bytes", product.blocks),
            self._graph.constant(f"{name}_scales", product.scales),
        ]
        shape: dict[str, Any] = {"K": blocks * block, "N": columns, "bits": product.bits, "block_size": block}
        return self._graph.fused("MatMulNBits", [states, *inputs], name, **shape, accuracy_level=4)
