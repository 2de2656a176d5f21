"""Pure: looks a query up in a corpus: its words among the lexemes, its vector by one product with all vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from conversations.recall.columns import Rows
from conversations.recall.corpus import Corpus
from conversations.recall.ranking import Floats, Ints, idf

BLOCK = 256  # vectors multiplied at once: their four-byte numbers stay in the processor's cache


class Hits(NamedTuple):
    """Where a query's words occur: parallel arrays of the word's number, the message's place, and how often."""

    words: Ints
    places: Ints
    counts: Floats


def occurrences(corpus: Corpus, words: Sequence[str]) -> Hits:
    """Where these lexemes occur."""
    asked = np.full(len(corpus.numbers), -1, np.int16)
    for at, word in enumerate(words):
        if (number := corpus.numbers.get(word, len(asked))) < len(asked):  # another thread may be adding lexemes
            asked[number] = at
    found = asked[corpus.terms]
    where = np.flatnonzero(found >= 0)
    places = np.searchsorted(corpus.ends, where, side="right")
    return Hits(found[where].astype(np.int64), places, corpus.counts[where].astype(float))


def rarity(corpus: Corpus, hits: Hits, words: int) -> Floats:
    """Each word's inverse document frequency."""
    return idf(np.bincount(hits.words, minlength=words), len(corpus))


def cosines(corpus: Corpus, vector: NDArray[np.float16]) -> Floats:
    """The cosine of each message's best piece with a vector of length 1, NaN for a message without any."""
    best = np.full(len(corpus), -np.inf)
    if len(corpus.owners):
        np.maximum.at(best, corpus.owners, products(corpus.vectors, vector))
    return np.where(np.isneginf(best), np.nan, best)


def products(vectors: NDArray[np.float16], vector: NDArray[np.float16]) -> Floats:
    """The inner product of each of the vectors with one.

    Half-precision numbers are made four bytes long by moving their bits, four times faster than numpy does it: shifted,
    the exponent is in its place and too small by 112, for which the other factor makes up.
    """
    found = np.empty(len(vectors), np.float32)
    factor = vector.astype(np.float32) * np.float32(2.0**112)
    bits = vectors.view(np.int16)
    wide = np.empty((BLOCK, len(vector)), np.int32)
    for start in range(0, len(vectors), BLOCK):
        block = bits[start : start + BLOCK]
        room = wide[: len(block)]
        np.left_shift(block, 13, out=room, dtype=np.int32)
        np.bitwise_and(room, np.int32(~0x70000000), out=room)  # of the sign, which is there four times, one stays
        np.matmul(room.view(np.float32), factor, out=found[start : start + BLOCK])
    return found.astype(float)


def best_by_vector(similar: Floats, most: int) -> Ints:
    """The places of the messages with the best cosines."""
    return _best(np.nan_to_num(similar, nan=-np.inf), most)


def best_by_words(corpus: Corpus, hits: Hits, rare: Floats, most: int) -> Ints:
    """The places of the best messages by BM25 (k1 1.2, b .5, as in ranking.bm25) among those that have a word."""
    lengths = corpus.columns["lengths"].astype(float)
    saturation = 1.2 * (0.5 + 0.5 * lengths[hits.places] / max(float(lengths.mean()), 1e-9))
    shares = rare[hits.words] * hits.counts * 2.2 / (hits.counts + saturation)
    scores = np.bincount(hits.places, weights=shares, minlength=len(corpus)).astype(float)
    return _best(scores, most, above=0.0)


def stretches(corpus: Corpus, centres: Ints, reach: int) -> Ints:
    """The places up to `reach` before and after the centres, ascending."""
    places = np.unique(centres[:, None] + np.arange(-reach, reach + 1))
    return places[(places >= 0) & (places < len(corpus))]


def matched(corpus: Corpus, hits: Hits, words: int, similar: Floats, places: Ints, *, for_time: bool) -> Rows:
    """The messages at these places, which ascend, with how they match. `for_time`: words of time matter."""
    at = np.full(len(corpus), -1)
    at[places] = np.arange(len(places))
    columns = at[hits.places]
    here = columns >= 0
    counts = np.zeros((words, len(places)))
    counts[hits.words[here], columns[here]] = hits.counts[here]
    chosen = {name: column[places] for name, column in corpus.columns.items()}
    chosen["times"] &= for_time
    return Rows(chosen, counts, similar[places])


def _best(scores: Floats, most: int, above: float = -np.inf) -> Ints:
    order = np.argpartition(-scores, most)[:most] if most < len(scores) else np.arange(len(scores))
    return order[scores[order] > above]
