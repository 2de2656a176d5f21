"""Edge: what the formula needs to know of a scope's messages, read in one query, as packed columns.

Rows of a few numbers each would take PostgreSQL and Python longer to hand over than to find: so each column comes as
one string of bytes. How often a lexeme stands in a message is read off `ts_rank`, which is many times faster than
unnesting the lexemes: with one lexeme and all weights 1 it is (1 + 1/4 + 1/9 + ... + 1/n^2) / 1.64493406685.

A small scope is read as a whole. Of a large one only what lies around the best by vector (where the scope has an
index, see nearest.py) and the best by rare words: a few hundred stretches of the conversation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from django.db import connection, transaction
from numpy.typing import NDArray

from conversations import nearest
from conversations.recall.lexemes import as_query, scope_lexeme
from conversations.recall.ranking import Bools, Floats, Frame, Ints, bm25, idf, session_numbers

READ_WHOLE = 20_000
"""Messages of a scope that is read as a whole. 4 microseconds each, measured with a million messages around."""

CANDIDATES = 100  # by vector, and as many by words
RARE = 4_000  # messages that rare words may find, before only the best by words are looked at more closely
WINDOW = 12  # turns on each side of a candidate that are read with it


@dataclass(frozen=True, slots=True)
class Word:
    """A lexeme of a query, and the share of all messages that hold it: 0 for what PostgreSQL counts as rare."""

    lexeme: str
    share: float = 0.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of which scope."""

    instance_id: int
    messages: int
    words: Sequence[Word]
    vector: Sequence[float] | None
    model: str


@dataclass(frozen=True, slots=True)
class Read:
    """A frame, and which messages it is made of. `texts`: equal for messages that say the same."""

    frame: Frame
    ids: Ints
    texts: Ints


def read(wanted: Wanted) -> Read:
    """The messages that may answer, in the order of time."""
    if wanted.messages <= READ_WHOLE:
        return _read_whole(wanted)
    return _read_around_candidates(wanted)


def _read_whole(wanted: Wanted) -> Read:
    words = [word.lexeme for word in wanted.words]
    sql = f"""
        SELECT message.*, piece.* FROM (
            SELECT {_columns(words)} FROM conversations_message m
            WHERE m.instance_id = %(instance)s AND {_RECALLABLE}
        ) message, (
            SELECT {_COSINES} FROM conversations_embedding e
            WHERE {_HAS_VECTOR} AND e.instance_id = %(instance)s
              AND e.model_id = (SELECT id FROM conversations_embeddingmodel WHERE name = %(model)s)
        ) piece
    """  # noqa: S608, composed of constants
    rows = _Rows.of(_one(sql, _parameters(wanted, words)), words=len(words))
    rarity = idf((rows.counts > 0).sum(axis=1), len(rows.ids))
    return rows.as_read(session_numbers(rows.seconds), rarity)


def _read_around_candidates(wanted: Wanted) -> Read:
    hits = _Hits.none(wanted) if not wanted.words else _find_by_words(wanted)
    with transaction.atomic():
        centres = np.union1d(_find_by_vector(wanted), hits.best)
        return _read_around(wanted, centres, hits.rarity)


@dataclass(frozen=True, slots=True)
class _Hits:
    """What words find: the best messages, and how much each of the words tells."""

    best: Ints
    rarity: Floats

    @classmethod
    def none(cls, wanted: Wanted) -> _Hits:
        return cls(np.zeros(0, np.int64), _rarity(wanted))


def _find_by_words(wanted: Wanted) -> _Hits:
    """The best by BM25 among the messages that hold one of the rare words."""
    rare = _rare(wanted)
    if not rare:
        return _Hits.none(wanted)
    words = [word.lexeme for word in wanted.words]
    sql = f"""
        SELECT {_columns(words)} FROM (
            SELECT * FROM conversations_message m
            WHERE m.instance_id = %(instance)s AND m.lexemes @@ %(rare)s::tsquery AND {_RECALLABLE}
            LIMIT {2 * RARE}
        ) m
    """  # noqa: S608
    any_of = " | ".join(as_query(wanted.words[number].lexeme) for number in rare)
    query = f"{as_query(scope_lexeme(wanted.instance_id))} & ({any_of})"
    rows = _Rows.of((*_one(sql, _parameters(wanted, words) | {"rare": query}), b"", b""), words=len(words))
    rarity = _rarity(wanted)
    rarity[rare] = idf((rows.counts[rare] > 0).sum(axis=1), wanted.messages)
    if not len(rows.ids):
        return _Hits(rows.ids, rarity)
    scores = bm25(rows.counts, rows.lengths, rarity, k1=1.2, b=0.5)
    return _Hits(rows.ids[np.argsort(-scores, kind="stable")[:CANDIDATES]], rarity)


def _rare(wanted: Wanted) -> list[int]:
    """The numbers of the rarest words, as many as find no more than RARE messages."""
    room = float(RARE)
    numbers = []
    for number in sorted(range(len(wanted.words)), key=lambda number: wanted.words[number].share):
        room -= wanted.words[number].share * wanted.messages
        if room < 0:
            break
        numbers.append(number)
    return numbers


def _rarity(wanted: Wanted) -> Floats:
    """By the shares that PostgreSQL's statistics know."""
    return idf(np.array([word.share * wanted.messages for word in wanted.words]), wanted.messages)


def _find_by_vector(wanted: Wanted) -> Ints:
    """The messages of the nearest pieces; none without an index: reading all vectors would take too long."""
    model = nearest.searchable(wanted.instance_id, wanted.model) if wanted.vector is not None else None
    if model is None:
        return np.zeros(0, np.int64)
    with connection.cursor() as cursor:
        cursor.execute(nearest.SEARCH)
        cursor.execute(
            f"""
            SELECT message_id FROM conversations_embedding
            WHERE instance_id = %(instance)s AND model_id = %(model_id)s
            ORDER BY {model.expression} <=> %(vector)s::{model.type} LIMIT {CANDIDATES}
            """,  # noqa: S608
            {"instance": wanted.instance_id, "model_id": model.id, "vector": _literal(wanted.vector)},
        )
        return np.array([row[0] for row in cursor.fetchall()], np.int64)


def _read_around(wanted: Wanted, centres: Ints, rarity: Floats) -> Read:
    words = [word.lexeme for word in wanted.words]
    sql = f"""
        WITH centre AS (
            SELECT c.number, m.created, m.id
            FROM unnest(%(centres)s::bigint[]) WITH ORDINALITY c(id, number) JOIN conversations_message m USING (id)
        ), around AS MATERIALIZED (
            SELECT c.number, w.id, w.created FROM centre c CROSS JOIN LATERAL (
                (SELECT m.id, m.created FROM conversations_message m
                 WHERE m.instance_id = %(instance)s AND {_RECALLABLE} AND (m.created, m.id) <= (c.created, c.id)
                 ORDER BY m.created DESC, m.id DESC LIMIT {WINDOW + 1})
                UNION ALL
                (SELECT m.id, m.created FROM conversations_message m
                 WHERE m.instance_id = %(instance)s AND {_RECALLABLE} AND (m.created, m.id) > (c.created, c.id)
                 ORDER BY m.created, m.id LIMIT {WINDOW})
            ) w
        )
        SELECT message.*, piece.*, seen.* FROM (
            SELECT {_columns(words)} FROM conversations_message m
            WHERE m.id = ANY(ARRAY(SELECT DISTINCT id FROM around))
        ) message, (
            SELECT {_COSINES} FROM conversations_embedding e
            WHERE {_HAS_VECTOR} AND e.message_id = ANY(ARRAY(SELECT DISTINCT id FROM around))
              AND e.model_id = (SELECT id FROM conversations_embeddingmodel WHERE name = %(model)s)
        ) piece, (
            SELECT string_agg(int8send(number), '' ORDER BY number, created, id),
                   string_agg(int8send(id), '' ORDER BY number, created, id) FROM around
        ) seen
    """  # noqa: S608
    *columns, numbers, ids = _one(sql, _parameters(wanted, words) | {"centres": centres.tolist()})
    rows = _Rows.of(columns, words=len(words))
    follows = _follows(rows.ids, _unpack(numbers, ">i8"), _unpack(ids, ">i8"))
    return rows.as_read(session_numbers(rows.seconds, follows), rarity)


def _follows(ids: Ints, numbers: Ints, seen: Ints) -> Bools:
    """Whether each message (`ids`, in the order of time) comes right after the one before it.

    It does if one of the stretches (`seen`, the messages of each under one number) holds both: what comes right
    after another message in a stretch does so among all of them.
    """
    follows = np.zeros(len(ids), np.bool_)
    order = np.argsort(ids)
    places = order[np.searchsorted(ids, seen, sorter=order)]
    same = numbers[1:] == numbers[:-1]
    follows[places[1:][same]] = True
    return follows


# What may be shown again: querysets.recallable().
_RECALLABLE = "m.role IN ('user', 'assistant') AND NOT m.abandoned AND m.content <> ''"

_MESSAGES = """
    string_agg(int8send(m.id), ''),
    string_agg(float8send(date_part('epoch', m.created)), ''),
    string_agg(int8send(hashbyteaextended(m.digest, 0)), ''),
    string_agg(int8send(hashtextextended(CASE WHEN m.name = '' THEN m.role ELSE m.name END, 0)), ''),
    string_agg(boolsend(m.asks), ''),
    string_agg(int4send(coalesce(length(m.lexemes), 0)), '')
"""
_COUNT = "string_agg(float4send(coalesce(ts_rank('{{1,1,1,1}}', m.lexemes, %(word{})s::tsquery), 0)), '')"

# Vectors have length 1: their inner product, which is faster, is their cosine.
_COSINES = "string_agg(int8send(e.message_id), ''), string_agg(float8send(-(e.vector <#> %(vector)s::halfvec)), '')"
_HAS_VECTOR = "%(vector)s IS NOT NULL"


def _columns(words: Sequence[str]) -> str:
    return ", ".join([_MESSAGES, *(_COUNT.format(number) for number in range(len(words)))])


def _parameters(wanted: Wanted, words: Sequence[str]) -> dict[str, Any]:
    return {
        "instance": wanted.instance_id,
        "model": wanted.model,
        "vector": _literal(wanted.vector),
        **{f"word{number}": as_query(lexeme) for number, lexeme in enumerate(words)},
    }


def _literal(vector: Sequence[float] | None) -> str | None:
    return None if vector is None else f"[{','.join(f'{x:.6g}' for x in vector)}]"


def _one(sql: str, parameters: dict[str, Any]) -> tuple[Any, ...]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        row: tuple[Any, ...] | None = cursor.fetchone()
        assert row is not None  # aggregates
        return row


@dataclass(frozen=True, slots=True)
class _Rows:
    """The columns unpacked, in the order of time."""

    ids: Ints
    seconds: Floats
    texts: Ints
    speakers: Ints
    asks: Bools
    lengths: Floats
    counts: Floats
    cosines: Floats

    @classmethod
    def of(cls, row: Sequence[Any], *, words: int) -> _Rows:
        """From a row of _columns() and _COSINES."""
        ids, seconds, texts, speakers, asks, lengths = map(_unpack, row[:6], (">i8", ">f8", ">i8", ">i8", "?", ">i4"))
        ranks = np.array([_unpack(column, ">f4") for column in row[6 : 6 + words]]).reshape(words, len(ids))
        order = np.lexsort((ids, seconds))
        return cls(
            ids=ids[order],
            seconds=seconds[order],
            texts=texts[order],
            speakers=speakers[order],
            asks=asks[order],
            lengths=lengths[order].astype(float),
            counts=_counts(ranks[:, order]),
            cosines=_best_cosines(ids[order], _unpack(row[6 + words], ">i8"), _unpack(row[7 + words], ">f8")),
        )

    def as_read(self, sessions: Ints, rarity: Floats) -> Read:
        frame = Frame(
            sessions=sessions,
            speakers=self.speakers,
            asks=self.asks,
            lengths=self.lengths,
            counts=self.counts,
            rarity=rarity,
            cosines=self.cosines,
        )
        return Read(frame=frame, ids=self.ids, texts=self.texts)


def _unpack(column: bytes | None, kind: str) -> NDArray[Any]:
    values = np.frombuffer(column or b"", kind)
    return values.astype(values.dtype.newbyteorder("="))


# What ts_rank gives for a lexeme that stands 0, 1, 2, ... times; PostgreSQL keeps 256 places at most.
_RANKS = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, 257) ** 2) / 1.64493406685])


def _counts(ranks: NDArray[np.float32]) -> Floats:
    # Between two ranks lies half the way to the next, so that rounding to four bytes does no harm.
    middles = (_RANKS[1:] + _RANKS[:-1]) / 2
    return np.searchsorted(middles, ranks).astype(float)


def _best_cosines(ids: Ints, of: Ints, cosines: Floats) -> Floats:
    """For each message the best cosine of its pieces, NaN without any. Pieces of other messages are passed over."""
    best = np.full(len(ids), -np.inf)
    if len(ids) and len(of):
        order = np.argsort(ids)
        places = order[np.minimum(np.searchsorted(ids, of, sorter=order), len(ids) - 1)]
        known = ids[places] == of
        np.maximum.at(best, places[known], cosines[known])
    return np.where(np.isneginf(best), np.nan, best)
