"""Edge: retrieves what the formula needs to know about a scope's messages, in one query, as packed columns.

A scope that is asked often is kept in the process, and only what is new in it is read (news.py). Of any other one, the
number of times a lexeme occurs in a message is derived from `ts_rank`, which is many times faster than unnesting the
lexemes: with one lexeme and all weights 1, ts_rank is (1 + 1/4 + 1/9 + ... + 1/n^2) / 1.64493406685.

A small scope is read whole. In a large one, only the messages around the best by vector (where the scope is kept, or
has an index, see nearest.py), around the best by words and around the latest wishes are read: a few hundred stretches
of the conversation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from django.conf import settings
from numpy.typing import NDArray

from conversations import nearest
from conversations.lexemes import as_query, scope_lexeme
from conversations.recall import matching
from conversations.recall.columns import KINDS, MESSAGES, RECALLABLE, ROW, Retrieved, Rows, unpack, unpack_messages
from conversations.recall.corpus import Corpus
from conversations.recall.dates import time_words
from conversations.recall.limited import one_row
from conversations.recall.news import up_to_date
from conversations.recall.ranking import Bools, Floats, Ints, bm25, idf, session_numbers

READ_WHOLE = 20_000
"""Scopes of up to this many messages are read whole: 4 microseconds a message, measured in a table of a million."""

CANDIDATES = 100  # by vector, and as many again by words
RARE = 4_000  # messages that rare words may match; of these, the best by words become candidates
WISHES = 40  # the latest, of which the nearest are shown
WINDOW = 12  # turns read on each side of a candidate


@dataclass(frozen=True, slots=True)
class Word:
    """A lexeme of a query, and the share of all messages that contain it: 0 if PostgreSQL counts it as rare."""

    lexeme: str
    share: float = 0.0


@dataclass(frozen=True, slots=True)
class RetrievalRequest:
    """Which messages to retrieve: those of a scope that may answer a query."""

    instance_id: int
    message_count: int  # of the scope
    words: Sequence[Word]
    vector: str | None  # of the query, as vector_literal() writes it; None: search by words only
    model: str  # the embedding model's name
    for_time: bool = False  # whether words of time matter
    milliseconds: int = 0  # after which PostgreSQL gives up; 0: never


def retrieve(request: RetrievalRequest) -> Retrieved:
    """Read the messages that may answer, oldest first."""
    corpus = None
    if request.vector is not None:
        corpus = up_to_date(request.instance_id, request.model, milliseconds=request.milliseconds)
    if corpus is not None:
        return _retrieve_from(corpus, request)
    if request.message_count <= READ_WHOLE:
        return _retrieve_whole(request)
    return _retrieve_around_candidates(request)


def _retrieve_from(corpus: Corpus, request: RetrievalRequest) -> Retrieved:
    words = [word.lexeme for word in request.words]
    hits = matching.occurrences(corpus, words)
    similar = matching.cosines(corpus, _numbers(request.vector))
    rarity = matching.rarity(corpus, hits, len(words))
    places = np.arange(len(corpus))
    if request.message_count > READ_WHOLE:
        wishes = np.flatnonzero(corpus.columns["wishes"])[-WISHES:]
        by_words = matching.best_by_words(corpus, hits, rarity, CANDIDATES)
        centres = np.concatenate([matching.best_by_vector(similar, CANDIDATES), by_words, wishes])
        places = matching.stretches(corpus, centres, WINDOW)
    rows = matching.matched(corpus, hits, len(words), similar, places, for_time=request.for_time)
    return rows.as_retrieved(session_numbers(rows.seconds, np.diff(places, prepend=-1) == 1), rarity)


def _numbers(vector: str | None) -> NDArray[np.float16]:
    """The numbers of a vector as halfvec has them."""
    assert vector is not None
    return np.array(vector[1:-1].split(","), np.float32).astype(np.float16)


def _retrieve_whole(request: RetrievalRequest) -> Retrieved:
    words = [word.lexeme for word in request.words]
    sql = f"""
        SELECT message.*, piece.* FROM (
            SELECT {_columns(words)} FROM (
                SELECT {ROW} FROM conversations_message m WHERE m.instance_id = %(instance)s AND {RECALLABLE} OFFSET 0
            ) m
        ) message, (
            SELECT {_COSINES} FROM conversations_embedding e
            WHERE {_HAS_VECTOR} AND e.instance_id = %(instance)s
              AND e.model_id = (SELECT id FROM conversations_embeddingmodel WHERE name = %(model)s)
        ) piece
    """  # noqa: S608, composed of constants
    rows = _rows(_one(sql, _parameters(request, words), request), words=len(words))
    rarity = idf((rows.counts > 0).sum(axis=1), len(rows.ids))
    return rows.as_retrieved(session_numbers(rows.seconds), rarity)


def _retrieve_around_candidates(request: RetrievalRequest) -> Retrieved:
    hits = _Hits.none(request) if not request.words else _find_by_words(request)
    return _retrieve_around(request, np.union1d(_find_by_vector(request), hits.best), hits.rarity)


@dataclass(frozen=True, slots=True)
class _Hits:
    """The result of a search by words: the ids of the best messages, and each word's inverse document frequency."""

    best: Ints
    rarity: Floats

    @classmethod
    def none(cls, request: RetrievalRequest) -> _Hits:
        return cls(np.zeros(0, np.int64), _rarity(request))


def _find_by_words(request: RetrievalRequest) -> _Hits:
    """The best messages by BM25 among those that contain a rare word."""
    rare = _rare(request)
    if not rare:
        return _Hits.none(request)
    words = [word.lexeme for word in request.words]
    sql = f"""
        SELECT {_columns(words)} FROM (
            SELECT {ROW} FROM conversations_message m
            WHERE m.instance_id = %(instance)s AND m.lexemes @@ %(rare)s::tsquery AND {RECALLABLE}
            LIMIT {2 * RARE}
        ) m
    """  # noqa: S608
    any_of = " | ".join(as_query(request.words[number].lexeme) for number in rare)
    query = f"{as_query(scope_lexeme(request.instance_id))} & ({any_of})"
    rows = _rows((*_one(sql, _parameters(request, words) | {"rare": query}, request), b"", b""), words=len(words))
    rarity = _rarity(request)
    rarity[rare] = idf((rows.counts[rare] > 0).sum(axis=1), request.message_count)
    if not len(rows.ids):
        return _Hits(rows.ids, rarity)
    scores = bm25(rows.counts, rows.lengths, rarity, k1=1.2, b=0.5)
    return _Hits(rows.ids[np.argsort(-scores, kind="stable")[:CANDIDATES]], rarity)


def _rare(request: RetrievalRequest) -> list[int]:
    """The positions of the rarest words: as many as match at most RARE messages in total."""
    room = float(RARE)
    numbers = []
    for number in sorted(range(len(request.words)), key=lambda number: request.words[number].share):
        room -= request.words[number].share * request.message_count
        if room < 0:
            break
        numbers.append(number)
    return numbers


def _rarity(request: RetrievalRequest) -> Floats:
    """Each word's inverse document frequency, estimated from PostgreSQL's statistics."""
    return idf(np.array([word.share * request.message_count for word in request.words]), request.message_count)


def _find_by_vector(request: RetrievalRequest) -> Ints:
    """The ids of the messages with the nearest pieces. Empty without an index: an exact search would take too long."""
    model = nearest.searchable(request.instance_id, request.model) if request.vector is not None else None
    if model is None:
        return np.zeros(0, np.int64)
    sql = f"""
        SELECT string_agg(int8send(message_id), '') FROM (
            SELECT message_id FROM conversations_embedding
            WHERE instance_id = %(instance)s AND model_id = %(model_id)s
            ORDER BY {model.expression} <=> %(vector)s::{model.type} LIMIT {CANDIDATES}
        ) nearest
    """  # noqa: S608
    parameters = {"instance": request.instance_id, "model_id": model.id, "vector": request.vector}
    (ids,) = _one(sql, parameters, request, f"{model.search_settings}; ")
    return unpack(ids, ">i8")


def _retrieve_around(request: RetrievalRequest, centres: Ints, rarity: Floats) -> Retrieved:
    words = [word.lexeme for word in request.words]
    sql = f"""
        WITH centre AS (
            SELECT row_number() OVER () AS number, m.created, m.id FROM (
                SELECT unnest(%(centres)s::bigint[])
                UNION
                (SELECT m.id FROM conversations_message m
                 WHERE m.instance_id = %(instance)s AND m.wish AND {RECALLABLE} ORDER BY m.created DESC LIMIT {WISHES})
            ) c(id) JOIN conversations_message m ON m.id = c.id AND m.instance_id = %(instance)s
        ), around AS MATERIALIZED (
            SELECT c.number, w.id, w.created FROM centre c CROSS JOIN LATERAL (
                (SELECT m.id, m.created FROM conversations_message m
                 WHERE m.instance_id = %(instance)s AND {RECALLABLE} AND (m.created, m.id) <= (c.created, c.id)
                 ORDER BY m.created DESC, m.id DESC LIMIT {WINDOW + 1})
                UNION ALL
                (SELECT m.id, m.created FROM conversations_message m
                 WHERE m.instance_id = %(instance)s AND {RECALLABLE} AND (m.created, m.id) > (c.created, c.id)
                 ORDER BY m.created, m.id LIMIT {WINDOW})
            ) w
        )
        SELECT message.*, piece.*, seen.* FROM (
            SELECT {_columns(words)} FROM (
                SELECT {ROW} FROM conversations_message m
                WHERE m.instance_id = %(instance)s AND m.id = ANY(ARRAY(SELECT DISTINCT id FROM around)) OFFSET 0
            ) m
        ) message, (
            SELECT {_COSINES} FROM conversations_embedding e
            WHERE {_HAS_VECTOR} AND e.instance_id = %(instance)s
              AND e.message_id = ANY(ARRAY(SELECT DISTINCT id FROM around))
              AND e.model_id = (SELECT id FROM conversations_embeddingmodel WHERE name = %(model)s)
        ) piece, (
            SELECT string_agg(int8send(number), '' ORDER BY number, created, id),
                   string_agg(int8send(id), '' ORDER BY number, created, id) FROM around
        ) seen
    """  # noqa: S608
    *columns, numbers, ids = _one(sql, _parameters(request, words) | {"centres": centres.tolist()}, request)
    rows = _rows(columns, words=len(words))
    follows = _follows(rows.ids, unpack(numbers, ">i8"), unpack(ids, ">i8"))
    return rows.as_retrieved(session_numbers(rows.seconds, follows), rarity)


def _follows(ids: Ints, numbers: Ints, seen: Ints) -> Bools:
    """Whether each message of `ids` (oldest first) comes right after the one before it in the scope.

    It does if one stretch contains both. `seen` are the ids of all stretches, and `numbers` says which stretch each
    belongs to; neighbours within a stretch are neighbours in the scope.
    """
    follows = np.zeros(len(ids), np.bool_)
    order = np.argsort(ids)
    places = order[np.searchsorted(ids, seen, sorter=order)]
    same = numbers[1:] == numbers[:-1]
    follows[places[1:][same]] = True
    return follows


_COUNT = "string_agg(float4send(coalesce(ts_rank('{{1,1,1,1}}', m.lexemes, %(word{})s::tsquery), 0)), '')"

# Vectors have length 1, so their inner product is their cosine, and faster to compute.
_COSINES = "string_agg(int8send(e.message_id), ''), string_agg(float8send(-(e.vector <#> %(vector)s::halfvec)), '')"
_HAS_VECTOR = "%(vector)s IS NOT NULL"


def _columns(words: Sequence[str]) -> str:
    return ", ".join([MESSAGES, *(_COUNT.format(number) for number in range(len(words)))])


def _parameters(request: RetrievalRequest, words: Sequence[str]) -> dict[str, Any]:
    return {
        "instance": request.instance_id,
        "model": request.model,
        "vector": request.vector,
        "language": settings.RESERVOIR_LANGUAGE,
        "times": time_words(settings.RESERVOIR_LANGUAGE) if request.for_time else None,
        **{f"word{number}": as_query(lexeme) for number, lexeme in enumerate(words)},
    }


def _one(sql: str, parameters: dict[str, Any], request: RetrievalRequest, settings: str = "") -> tuple[Any, ...]:
    row = one_row(sql, parameters, milliseconds=request.milliseconds, settings=settings)
    assert row is not None  # aggregates
    return row


def _rows(row: Sequence[Any], *, words: int) -> Rows:
    """From the row that _columns() and _COSINES select."""
    unpacked = unpack_messages(row)
    ids, ranked = unpacked["ids"], row[len(KINDS) : len(KINDS) + words]
    ranks = np.array([unpack(column, ">f4") for column in ranked]).reshape(words, len(ids))
    order = np.lexsort((ids, unpacked["seconds"]))
    columns = {name: column[order] for name, column in unpacked.items()}
    cosines = _best_cosines(columns["ids"], *map(unpack, row[len(KINDS) + words :], (">i8", ">f8")))
    return Rows(columns, _counts(ranks[:, order]), cosines)


# ts_rank of a lexeme that occurs 0, 1, 2, ... times; one without positions occurs once. PostgreSQL stores at most 256.
_RANKS = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, 257) ** 2) / 1.64493406685])


def _counts(ranks: NDArray[np.float32]) -> Floats:
    # Compare with the middle between two ranks, so that rounding to four bytes does no harm.
    middles = (_RANKS[1:] + _RANKS[:-1]) / 2
    return np.searchsorted(middles, ranks).astype(float)


def _best_cosines(ids: Ints, of: Ints, cosines: Floats) -> Floats:
    """The best cosine of each message's pieces, NaN for a message without any; pieces of other messages are ignored."""
    best = np.full(len(ids), -np.inf)
    if len(ids) and len(of):
        order = np.argsort(ids)
        places = order[np.minimum(np.searchsorted(ids, of, sorter=order), len(ids) - 1)]
        known = ids[places] == of
        np.maximum.at(best, places[known], cosines[known])
    return np.where(np.isneginf(best), np.nan, best)
