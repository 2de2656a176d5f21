"""Pure: as much of ONNX's file format as the local model needs: reads a model's weights, writes a graph.

A file is a protocol buffer (https://protobuf.dev/programming-guides/encoding/); the numbers of its fields are those of
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto. The `onnx` package would do the same with 30 MB more memory.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

TYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype(np.float32),
    2: np.dtype(np.uint8),
    3: np.dtype(np.int8),
    6: np.dtype(np.int32),
    7: np.dtype(np.int64),
}
NUMBERS = {dtype: number for number, dtype in TYPES.items()}
FLOAT = NUMBERS[np.dtype(np.float32)]
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # how a field is encoded
IR_VERSION, OPERATORS, OPERATORS_OF_MICROSOFT = 8, 17, 1
MICROSOFT = "com.microsoft"


# --- reading ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Model:
    """A model's arrays by name, and the inputs of its matrix products in their order."""

    arrays: Mapping[str, Array]
    products: Sequence[Sequence[str]]


def read(data: bytes | memoryview) -> Model:
    """The model in a file. Raises ValueError, IndexError or KeyError for data that is no model."""
    (graph,) = (value for number, value in _fields(memoryview(data)) if number == 7)
    arrays: dict[str, Array] = {}
    products = []
    for number, value in _fields(graph):
        if number == 5:
            name, array = _array(value)
            arrays[name] = array
        elif number == 1:
            parts = list(_fields(value))
            if (4, b"MatMul") in parts:
                products.append([bytes(part).decode() for number, part in parts if number == 1])
    return Model(arrays, products)


def _array(tensor: memoryview) -> tuple[str, Array]:
    dims: list[int] = []
    name, kind, raw = "", FLOAT, memoryview(b"")
    for number, value in _fields(tensor):
        if number == 1:
            dims += [value] if isinstance(value, int) else _varints(value)
        elif number == 2:
            kind = value
        elif number == 8:
            name = bytes(value).decode()
        elif number == 9:
            raw = value
    if kind not in TYPES or not len(raw):
        return name, np.empty(0)
    found: Array = np.frombuffer(raw, TYPES[kind])
    return name, found.reshape(dims)


def _varints(data: memoryview) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """The fields of a message: their numbers, with an integer or a view of bytes each."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, encoding = key >> 3, key & 7
        if encoding == VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if encoding == BYTES:
            length, at = _varint(data, at)
        else:
            length = {FIXED32: 4, FIXED64: 8}[encoding]
        yield number, data[at : at + length]
        at += length


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


# --- writing ------------------------------------------------------------------------------------------


@dataclass
class Graph:
    """A graph that is being written."""

    parts: list[bytes] = field(default_factory=list)

    def constant(self, name: str, array: Array) -> str:
        """Add an array. Returns its name."""
        dims = b"".join(_number(1, dim) for dim in array.shape)
        self.parts.append(
            _bytes(5, dims + _number(2, NUMBERS[array.dtype]) + _text(8, name) + _bytes(9, array.tobytes()))
        )
        return name

    def node(self, operator: str, inputs: Sequence[str], output: str, **attributes: float) -> str:
        """Add an operator of ONNX. Returns the name of its output."""
        return self._node(operator, inputs, output, "", attributes)

    def fused(self, operator: str, inputs: Sequence[str], output: str, **attributes: float) -> str:
        """Add an operator that onnxruntime has in addition to those of ONNX. Returns the name of its output."""
        return self._node(operator, inputs, output, MICROSOFT, attributes)

    def file(self, inputs: Mapping[str, tuple[type, int]], output: str) -> bytes:
        """The model: its inputs with their types and numbers of dimensions, and its output of floats."""
        values = [_bytes(11, _value(name, np.dtype(kind), rank)) for name, (kind, rank) in inputs.items()]
        values.append(_bytes(12, _text(1, output) + _bytes(2, _bytes(1, _number(1, FLOAT)))))
        graph = b"".join([*self.parts, _text(2, "graph"), *values])
        operators = _bytes(8, _text(1, "") + _number(2, OPERATORS))
        operators += _bytes(8, _text(1, MICROSOFT) + _number(2, OPERATORS_OF_MICROSOFT))
        return _number(1, IR_VERSION) + operators + _bytes(7, graph)

    def _node(
        self, operator: str, inputs: Sequence[str], output: str, domain: str, attributes: Mapping[str, float]
    ) -> str:
        names = b"".join(_text(1, name) for name in inputs) + _text(2, output)
        given = b"".join(_bytes(5, _attribute(name, value)) for name, value in attributes.items())
        self.parts.append(_bytes(1, names + _text(3, output) + _text(4, operator) + given + _text(7, domain)))
        return output


def _attribute(name: str, value: float) -> bytes:
    if isinstance(value, int):
        return _text(1, name) + _number(3, value) + _number(20, 2)
    return _text(1, name) + _key(2, FIXED32) + struct.pack("<f", value) + _number(20, 1)


def _value(name: str, dtype: np.dtype[Any], rank: int) -> bytes:
    shape = b"".join(_bytes(1, _text(2, f"{name}_{at}")) for at in range(rank))
    return _text(1, name) + _bytes(2, _bytes(1, _number(1, NUMBERS[dtype]) + _bytes(2, shape)))


def _key(number: int, encoding: int) -> bytes:
    return _encoded(number << 3 | encoding)


def _number(number: int, value: int) -> bytes:
    return _key(number, VARINT) + _encoded(value & (2**64 - 1))


def _text(number: int, text: str) -> bytes:
    return _bytes(number, text.encode())


def _bytes(number: int, data: bytes) -> bytes:
    return _key(number, BYTES) + _encoded(len(data)) + data


def _encoded(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
