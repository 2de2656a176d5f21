"""Identical texts are embedded once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from conversations.embedders import remembering
from conversations.embedders.base import EmbedderError, Vectors
from conversations.embedders.remembering import Remembering


class Counting:
    """An embedder whose vectors say how many texts it had embedded before."""

    name = "counting"
    dimensions = 2

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.broken = False

    def embed(self, texts: Sequence[str], *, later: bool = False) -> Vectors:
        if self.broken:
            raise EmbedderError("broken")
        vectors = np.array([[len(self.asked) + at, later] for at in range(len(texts))], np.float32)
        self.asked += texts
        return vectors.reshape(len(texts), 2)

    def count(self, text: str) -> int:
        return len(text)

    def close(self) -> None:
        pass


def test_a_text_is_embedded_once_within_a_call_and_in_later_ones() -> None:
    inner = Counting()
    embedder = Remembering(inner)
    first = embedder.embed(["a", "b", "a"])
    assert inner.asked == ["a", "b"]
    assert first[:, 0].tolist() == [0, 1, 0]
    assert embedder.embed(["c", "b"], later=True)[:, 0].tolist() == [2, 1]
    assert inner.asked == ["a", "b", "c"]


def test_the_texts_used_longest_ago_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembering, "KEPT", 2)
    inner = Counting()
    embedder = Remembering(inner)
    embedder.embed(["a", "b"])
    embedder.embed(["a"])
    embedder.embed(["c"])  # drops b
    embedder.embed(["a"])
    embedder.embed(["b"])
    assert inner.asked == ["a", "b", "c", "b"]
    assert embedder.embed(["d", "e", "f"])[:, 0].tolist() == [4, 5, 6], "more texts than are kept"


def test_no_texts_and_failures_and_texts_without_an_encoding() -> None:
    inner = Counting()
    embedder = Remembering(inner)
    assert embedder.embed([]).shape == (0, 2)
    inner.broken = True
    with pytest.raises(EmbedderError):
        embedder.embed(["a"])
    inner.broken = False
    assert embedder.embed(["a", "\ud800"])[:, 0].tolist() == [0, 1], "a failure is not remembered"
    assert (embedder.name, embedder.dimensions, embedder.count("abc")) == ("counting", 2, 3)
