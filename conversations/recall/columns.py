"""Messages as columns: how PostgreSQL packs them, and how they are unpacked into arrays.

PostgreSQL and Python would spend longer on transferring rows of a few numbers each than on finding them, so each
column arrives as one string of bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conversations.recall.ranking import Floats, Frame, Ints

Columns = dict[str, NDArray[Any]]

# The same condition as MessageQuerySet.recallable().
RECALLABLE = "m.role IN ('user', 'assistant') AND NOT m.abandoned AND m.content <> ''"

# A long list of lexemes is stored compressed, and each function that reads it would decompress it again. Setting
# weights, which the rank ignores, leaves it decompressed.
ROW = """
    m.id, m.created, m.digest, m.name, m.role, m.asks, m.wish, setweight(m.lexemes, 'D') AS lexemes
"""

# PostgreSQL 15 hashes texts but no bytes.
MESSAGES = """
    string_agg(int8send(m.id), ''),
    string_agg(float8send(date_part('epoch', m.created)), ''),
    string_agg(int8send(hashtextextended(encode(m.digest, 'hex'), 0)), ''),
    string_agg(int8send(hashtextextended(CASE WHEN m.name = '' THEN m.role ELSE m.name END, 0)), ''),
    string_agg(boolsend(m.role = 'user'), ''),
    string_agg(boolsend(m.name <> ''), ''),
    string_agg(boolsend(m.asks), ''),
    string_agg(boolsend(m.wish), ''),
    string_agg(boolsend(coalesce(m.lexemes @@ (SELECT to_tsquery(%(language)s::regconfig, %(times)s)), false)), ''),
    string_agg(int4send(coalesce(length(m.lexemes), 0)), '')
"""
# Their names, most as in Frame, and how they are packed.
KINDS = {
    "ids": ">i8",
    "seconds": ">f8",
    "texts": ">i8",
    "speakers": ">i8",
    "by_user": "?",
    "named": "?",
    "asks": "?",
    "wishes": "?",
    "times": "?",
    "lengths": ">i4",
}


@dataclass(frozen=True, slots=True)
class Retrieved:
    """The messages that may answer, oldest first: one entry a message in each of the arrays."""

    frame: Frame  # the input of the formula
    ids: Ints
    texts: Ints  # hashes: equal for messages that say the same


@dataclass(frozen=True, slots=True)
class Rows:
    """What is known of messages, oldest first: their columns by the names in KINDS, and how they match a query."""

    columns: Mapping[str, NDArray[Any]]
    counts: Floats  # one row for each of the query's lexemes: its occurrences in each message
    cosines: Floats  # of the best piece; NaN where there is no vector

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def ids(self) -> Ints:
        return self.columns["ids"]

    @property
    def seconds(self) -> Floats:
        return self.columns["seconds"]

    @property
    def lengths(self) -> Floats:
        return self.columns["lengths"].astype(float)

    def as_retrieved(self, sessions: Ints, rarity: Floats) -> Retrieved:
        of_frame = {name: column for name, column in self.columns.items() if name not in ("ids", "texts")}
        of_frame |= {"lengths": self.lengths, "counts": self.counts, "cosines": self.cosines}
        return Retrieved(Frame(sessions=sessions, rarity=rarity, **of_frame), self.ids, self.columns["texts"])


def unpack_messages(row: Sequence[Any]) -> Columns:
    """The columns that a row begins with, as MESSAGES selects them."""
    return {name: unpack(column, kind) for (name, kind), column in zip(KINDS.items(), row, strict=False)}


def unpack(column: bytes | None, kind: str) -> NDArray[Any]:
    values = np.frombuffer(column or b"", kind)
    return values.astype(values.dtype.newbyteorder("="))
