"""Pure: all-MiniLM-L6-v2 as a graph of onnxruntime's fused operators, with the weights of the package's file.

The package's own graph turns its weights of one byte into floats when it loads, 90 MB in each process, and multiplies
floats. This one keeps the bytes and multiplies them with activations that are rounded to one byte for each BLOCK of a
row: a row's result does not depend on the rows beside it. docs/decisions/a-graph-of-our-own.md has the figures.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from conversations.embedders.onnx_format import FLOAT, Array, Graph, read

LAYERS, HEADS = 6, 12
BLOCK = 32  # elements of a row that share a scale
EPSILON = 1e-12
INPUTS: dict[str, tuple[type, int]] = {"ids": (np.int64, 2), "positions": (np.int64, 1), "mask": (np.int32, 2)}
OUTPUT = "states"


def fused_graph(package: bytes) -> bytes:
    """The model to run, from the package's file: `ids` and `mask` of texts x tokens, `positions` of tokens."""
    return _Writer(package).written()


class _Writer:
    def __init__(self, package: bytes) -> None:
        model = read(package)
        self._arrays = model.arrays
        # Six to a layer: query, key, value, output of the attention; both of the feed-forward network.
        self._weights = iter([name for _, name in model.products if f"{name}_q" in model.arrays])
        self._graph = Graph()

    def written(self) -> bytes:
        states = self._embeddings()
        for layer in range(LAYERS):
            states = self._layer(layer, states)
        self._graph.node("Identity", [states], OUTPUT)
        return self._graph.file(INPUTS, OUTPUT)

    def _embeddings(self) -> str:
        graph, name = self._graph, "inner.embeddings.word_embeddings.weight"
        words = graph.constant("words", self._arrays[f"{name}_q"])
        scales = graph.constant("scales", self._arrays[f"{name}_scale"])
        graph.node("Gather", [words, "ids"], "word_bytes")
        graph.node("Cast", ["word_bytes"], "word_floats", to=FLOAT)
        graph.node("Gather", [scales, "ids"], "word_scales")
        graph.node("Mul", ["word_floats", "word_scales"], "word")
        # All tokens are of the first type, as there is one text only.
        places = self._floats("inner.embeddings.position_embeddings.weight")
        places = places + self._arrays["inner.embeddings.token_type_embeddings.weight"][0]
        graph.node("Gather", [graph.constant("places", places), "positions"], "place")
        graph.node("Add", ["word", "place"], "embedded")
        norm = [self._given(f"inner.embeddings.LayerNorm.{part}") for part in ("weight", "bias")]
        return graph.node("LayerNormalization", ["embedded", *norm], "states_0", axis=-1, epsilon=EPSILON)

    def _layer(self, layer: int, states: str) -> str:
        graph, of = self._graph, f"inner.encoder.layer.{layer}"
        parts = [self._product(states, f"{part}_{layer}") for part in ("query", "key", "value")]
        biases = [self._arrays[f"{of}.attention.self.{part}.bias"] for part in ("query", "key", "value")]
        bias = graph.constant(f"attention_bias_{layer}", np.concatenate(biases))
        attended = graph.fused("MultiHeadAttention", [*parts, bias, "mask"], f"attended_{layer}", num_heads=HEADS)
        middle = self._added(self._product(attended, f"output_{layer}"), states, f"{of}.attention.output")
        wide = self._product(middle, f"wide_{layer}")
        bent = graph.fused("BiasGelu", [wide, self._given(f"{of}.intermediate.dense.bias")], f"bent_{layer}")
        return self._added(self._product(bent, f"narrow_{layer}"), middle, f"{of}.output")

    def _added(self, product: str, states: str, of: str) -> str:
        """The product and its bias, added to the states and normalised."""
        given = [self._given(f"{of}.{part}") for part in ("LayerNorm.weight", "LayerNorm.bias", "dense.bias")]
        return self._graph.fused("SkipLayerNormalization", [product, states, *given], f"{of}.added", epsilon=EPSILON)

    def _product(self, states: str, name: str) -> str:
        """The states times the next weights. These are signed bytes; the operator wants them from 0 to 255."""
        weight = next(self._weights)
        rows = self._arrays[f"{weight}_q"].T
        columns, width = rows.shape
        blocks = (rows.astype(np.int16) + 128).astype(np.uint8).reshape(columns, width // BLOCK, BLOCK)
        scales = np.repeat(self._arrays[f"{weight}_scale"].reshape(-1), width // BLOCK)
        inputs = [self._graph.constant(f"{name}_bytes", blocks), self._graph.constant(f"{name}_scales", scales)]
        shape: dict[str, Any] = {"K": width, "N": columns, "bits": 8, "block_size": BLOCK, "accuracy_level": 4}
        return self._graph.fused("MatMulNBits", [states, *inputs], name, **shape)

    def _given(self, name: str) -> str:
        return self._graph.constant(name, self._arrays[name])

    def _floats(self, name: str) -> Array:
        return self._arrays[f"{name}_q"].astype(np.float32) * self._arrays[f"{name}_scale"]
