"""Pure: all that the formula needs of a scope's messages, as arrays that grow at their end. matching.py asks them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conversations.recall.columns import Columns
from conversations.recall.ranking import Ints

Array = NDArray[Any]

SPARE = 8  # a part of this many of an array is left free behind it when it is moved

# As PostgreSQL writes a tsvector: 'word':3,15 'it''s':7
_LEXEME = re.compile(r"'([^']*(?:''[^']*)*)'(?::([\d,]+))?")
_ENTRY = 150  # bytes of a lexeme in a dictionary, about


@dataclass(frozen=True, slots=True)
class Added:
    """Messages that are new, oldest first, and vectors of these or of earlier ones: one id of a message a vector."""

    columns: Columns
    lexemes: Sequence[str]  # of each message, as PostgreSQL writes a tsvector
    of: Ints
    vectors: NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Corpus:
    """A scope's messages, oldest first. Never changed: plus() returns a longer one, which uses the same memory."""

    columns: Mapping[str, Array]  # by the names in columns.KINDS
    ends: Ints  # where each message's stretch of `terms` ends
    terms: NDArray[np.int32]  # numbers of lexemes
    counts: NDArray[np.uint16]  # how often each occurs in its message
    numbers: dict[str, int]  # the number of each lexeme; shared, and only ever added to
    vectors: NDArray[np.float16]  # one row a piece
    owners: NDArray[np.int32]  # the place of each piece's message
    bare: Mapping[int, int]  # messages without a vector: id -> place

    @classmethod
    def of(cls, added: Added) -> Corpus:
        empty = cls(
            columns={name: np.zeros(0, column.dtype) for name, column in added.columns.items()},
            ends=np.zeros(0, np.int64),
            terms=np.zeros(0, np.int32),
            counts=np.zeros(0, np.uint16),
            numbers={},
            vectors=np.zeros((0, 0), np.float16),
            owners=np.zeros(0, np.int32),
            bare={},
        )
        return empty.plus(added)

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def size(self) -> int:
        """Bytes of memory, about."""
        arrays = [*self.columns.values(), self.ends, self.terms, self.counts, self.vectors, self.owners]
        return sum((array if array.base is None else array.base).nbytes for array in arrays) + _ENTRY * (
            len(self.numbers) + len(self.bare)
        )

    def plus(self, added: Added) -> Corpus:
        """This and what is new. To be called once only: what is added lies behind the arrays, in the same memory."""
        ids = added.columns["ids"].tolist()
        places = {**self.bare, **{pk: len(self) + at for at, pk in enumerate(ids)}}
        owners = [places[pk] for pk in added.of.tolist()]
        lengths, terms, counts = self._read(added.lexemes)
        begin = int(self.ends[-1]) if len(self) else 0
        vectors = self.vectors
        if owners:
            if not len(vectors):  # only now is their dimension known
                vectors = np.zeros((0, added.vectors.shape[1]), np.float16)
            vectors = extended(vectors, added.vectors)
        return replace(
            self,
            columns={name: extended(column, added.columns[name]) for name, column in self.columns.items()},
            ends=extended(self.ends, begin + np.cumsum(lengths, dtype=np.int64)),
            terms=extended(self.terms, terms),
            counts=extended(self.counts, counts),
            vectors=vectors,
            owners=extended(self.owners, owners),
            bare={pk: places[pk] for pk in places.keys() - {*added.of.tolist()}},
        )

    def _read(self, lexemes: Sequence[str]) -> tuple[list[int], list[int], list[int]]:
        """How many lexemes each message has; then, for all together, their numbers and how often they occur."""
        lengths, terms, counts = [], [], []
        numbers = self.numbers
        for text in lexemes:
            found = _LEXEME.findall(text)
            lengths.append(len(found))
            for lexeme, positions in found:
                if "''" in lexeme or "\\" in lexeme:
                    lexeme = lexeme.replace("''", "'").replace("\\\\", "\\")
                terms.append(numbers.setdefault(lexeme, len(numbers)))
                counts.append(positions.count(",") + 1)
        return lengths, terms, counts


def extended(array: Array, more: Any) -> Array:
    """The array with more at its end, written into the free room behind it, or with all of it moved to a larger one."""
    length = len(array) + len(more)
    room = array.base
    if not isinstance(room, np.ndarray) or len(room) < length or room.dtype != array.dtype or not room.flags.writeable:
        room = np.empty((length + length // SPARE, *array.shape[1:]), array.dtype)
        room[: len(array)] = array
    room[len(array) : length] = more
    return room[:length]
