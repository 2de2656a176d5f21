"""Recall: scope + query -> ranked messages, each marked as relevant or not.

    prepare_query   the scope's size, the query's words, the person it names, the text to embed
    retrieve        reads the messages that may answer (retrieval.py)
    parts           scores them by the formula (ranking.py)
    fetch           loads the best, and selects the part of a long text that answers (spans.py)

The proxy packs them into a budget and renders them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NamedTuple

import numpy as np
from django.conf import settings
from django.db import connection
from django.utils import timezone

from conversations import scopes
from conversations.embedders.base import ENGLISH_ONLY
from conversations.lexemes import split_by_script
from conversations.nearest import vector_literal
from conversations.querysets import Scope
from conversations.recall.baselines import BASELINES
from conversations.recall.columns import Retrieved
from conversations.recall.dates import asks_for_time, spans
from conversations.recall.names import in_first_person, mentions, same_person
from conversations.recall.phrasing import asks_what_the_assistant_said, is_question
from conversations.recall.ranking import WEIGHTS, Asked, Bools, Floats, Frame, Ints, parts
from conversations.recall.retrieval import RetrievalRequest, Word, retrieve
from conversations.recall.spans import WHOLE, Scored, beginnings, best_span, excerpt
from conversations.turns import storable

CANDIDATES = 50
PARTS = (*WEIGHTS,)

RELEVANT = 0.5
"""Messages that score below this share of the best score are not relevant."""

EVIDENCE = ("vector", "words", "session", "nearby", "reply", "wish", "date")
"""A candidate needs a score above 0 in one of these parts: the speaker alone answers nothing."""

LONGEST_QUERY = 10_000  # characters of a query whose words are used
MOST_WORDS, FEWEST_WORDS = 64, 16
COUNTED = 200_000  # the most lookups of a word in a message, for all words of a query together
MOST_NAMES = 200


@dataclass(frozen=True, slots=True)
class Query:
    """A query prepared for a scope. `wording` is the text to embed for search()."""

    text: str
    wording: str
    instance_id: int | None = None  # None: the scope does not exist yet
    message_count: int = 0  # of the scope
    is_blank: bool = False  # it has no letter or digit: there is nothing to search for
    words: tuple[Word, ...] = ()
    milliseconds: int = 0  # after which PostgreSQL gives the search up; 0: never
    is_unspaced: bool = False  # it is mostly in a script without spaces
    asked: Asked = field(default_factory=Asked)
    for_time: bool = False


class Part(NamedTuple):
    """What one part of the formula adds to a score, and the message's rank in the scope by it (from 1)."""

    rank: int | None
    score: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """A stored message that may answer a query. `start` and `end` are the offsets of what to show of its content."""

    id: int
    role: str
    name: str
    created: datetime
    content: str
    digest: bytes
    start: int
    end: int
    score: float
    relevant: bool
    parts: dict[str, Part] = field(default_factory=dict)

    @property
    def is_wish(self) -> bool:
        """Whether it is one of the user's standing wishes, which are shown whatever the query."""
        return "wish" in self.parts and self.parts["wish"].score > 0

    @property
    def text(self) -> str:
        """The text to show, with dots where something is left out."""
        return excerpt(self.content, self.start, self.end)


def prepare_query(*, scope: Scope, text: str, milliseconds: int = 0) -> Query:
    """Look up the scope and split the query into words. Comes before embedding, since it chooses the wording.

    PostgreSQL gives the search up after `milliseconds`; 0 is for never.
    """
    spaced, pairs = split_by_script(storable(text[:LONGEST_QUERY]))
    named = scopes.in_sql(scope)
    with connection.cursor() as cursor:
        cursor.execute(
            _PREPARE.format(scope=named.condition, number=named.number or "(SELECT id FROM scope)"),
            {
                **named.values,
                "language": settings.RESERVOIR_LANGUAGE,
                "spaced": spaced,
                "pairs": pairs,
                "names": MOST_NAMES,
            },
        )
        row = cursor.fetchone()
    if row is None:
        scopes.look_up_again(scope)
        return Query(text, text)
    instance_id, message_count, names, codes, lexemes = row
    if not any(character.isalnum() for character in text):  # emoji or punctuation
        return Query(text, text, instance_id, message_count, is_blank=True)
    codes_by_name = dict(zip(names or (), codes or (), strict=True))
    mentioned = mentions(text, codes_by_name)
    meant = {mention.name for mention in mentioned}
    is_statement = not is_question(text)  # a name in it is mostly an address: "Thanks, Ann!"
    own_words = "" if is_statement or not meant else in_first_person(text, mentioned, settings.RESERVOIR_LANGUAGE)
    return Query(
        text=text,
        wording=own_words or text,
        instance_id=instance_id,
        message_count=message_count,
        words=_chosen(lexemes or (), message_count),
        milliseconds=milliseconds,
        is_unspaced=len(pairs.split()) > len(spaced.split()),
        asked=Asked(
            speakers=tuple(codes_by_name[name] for name in meant) if same_person(meant) else (),
            days=tuple(spans(text, timezone.now().date())),
            is_statement=is_statement,
            of_assistant=asks_what_the_assistant_said(text),
        ),
        for_time=asks_for_time(text),
    )


def search(
    *,
    query: Query,
    vector: Sequence[float] | None,
    model: str,
    limit: int = CANDIDATES,
    present: Collection[bytes] = (),
    without: Collection[str] = (),
    baseline: str = "",
) -> list[Candidate]:
    """At most `limit` messages that answer the query, best first; of those that say the same, only the best.

    `vector` is that of the query's wording under the embedding model named `model`; None searches by words only.
    `present` are the digests of what the request holds already, which sets no bar for others: the same question, asked
    before, would outdo all that answers it. `without` names parts of the formula to leave out; `baseline`, one of
    BASELINES to rank by in place of the formula.
    """
    if query.instance_id is None or query.is_blank or limit < 1:
        return []
    request = RetrievalRequest(
        instance_id=query.instance_id,
        message_count=query.message_count,
        words=query.words,
        vector=None if vector is None else vector_literal(vector),
        model=model,
        for_time=query.for_time,
        milliseconds=query.milliseconds,
    )
    retrieved = retrieve(_reduced(request, without))
    scored = _scored(retrieved.frame, _asked(query, model), without, baseline)
    score = np.sum([*scored.values()], axis=0)
    ranked = _Ranked(retrieved.ids, scored, score, _best(retrieved, scored, score, limit))
    return _fetch(request, ranked, present)


@dataclass(frozen=True, slots=True)
class _Ranked:
    """The messages that were scored, by each part and in total, and the places of the best among them."""

    ids: Ints
    parts: dict[str, Floats]
    score: Floats
    best: list[int]


def _asked(query: Query, model: str) -> Asked:
    """What the query asks about, for vectors of this embedding model."""
    return replace(query.asked, is_foreign=query.is_unspaced and model in ENGLISH_ONLY)


def _reduced(request: RetrievalRequest, without: Collection[str]) -> RetrievalRequest:
    """The request without what no part of the formula needs."""
    return replace(
        request,
        words=() if {"words", "session", "nearby"} <= set(without) else request.words,
        vector=None if {"vector", "answer"} <= set(without) else request.vector,
    )


def _scored(frame: Frame, asked: Asked, without: Collection[str], baseline: str) -> dict[str, Floats]:
    if baseline:
        return {baseline: BASELINES[baseline](frame)}
    return {name: np.zeros_like(values) if name in without else values for name, values in parts(frame, asked).items()}


def _chosen(lexemes: Sequence[str], messages: int) -> tuple[Word, ...]:
    """The words to search for. Of a long query, the rarest."""
    most = min(MOST_WORDS, max(FEWEST_WORDS, COUNTED // max(messages, 1)))
    if len(lexemes) <= most and messages * len(lexemes) <= COUNTED:
        return tuple(Word(lexeme) for lexeme in lexemes)
    with connection.cursor() as cursor:
        cursor.execute(_SHARES, {"lexemes": list(lexemes)})
        shares = dict(cursor.fetchall())
    words = [Word(lexeme, shares.get(lexeme, 0.0)) for lexeme in lexemes]
    return tuple(sorted(words, key=lambda word: word.share)[:most])


def _best(retrieved: Retrieved, scored: dict[str, Floats], score: Floats, limit: int) -> list[int]:
    """Positions in the frame of the best messages, one for each text. Among equals, the latest comes first."""
    evident = np.any([scored[name] > 0 for name in (*EVIDENCE, *BASELINES) if name in scored], axis=0)
    order = np.lexsort((-np.arange(len(score)), -score))
    order = order[evident[order]]
    _, first = np.unique(retrieved.texts[order], return_index=True)
    distinct = order[np.sort(first)]
    wishes = _wishes(scored, distinct)  # they are never beyond the limit
    chosen = np.flatnonzero(wishes | (np.cumsum(~wishes) <= limit - wishes.sum()))
    return [int(place) for place in distinct[chosen][:limit]]


def _wishes(scored: dict[str, Floats], places: Ints) -> Bools:
    """Which of these messages are standing wishes to show."""
    return scored["wish"][places] > 0 if "wish" in scored else np.zeros(len(places), np.bool_)


def _fetch(request: RetrievalRequest, ranked: _Ranked, present: Collection[bytes]) -> list[Candidate]:
    """The best messages as they are stored now; one that has been forgotten since is left out."""
    with connection.cursor() as cursor:
        cursor.execute(
            _FETCH,
            {
                "ids": [int(ranked.ids[place]) for place in ranked.best],
                "instance": request.instance_id,
                "model": request.model,
                "whole": WHOLE,
                "vector": request.vector,
            },
        )
        rows = {row[0]: row for row in cursor.fetchall()}
    words = beginnings([word.lexeme for word in request.words])
    wishes = _wishes(ranked.parts, np.array(ranked.best, np.int64))
    shares = {name: _parts_of(values, ranked.best) for name, values in ranked.parts.items()}
    new = [place for place in ranked.best if (row := rows.get(int(ranked.ids[place]))) and bytes(row[5]) not in present]
    bar = RELEVANT * max((ranked.score[place] for place in new), default=0.0)
    candidates = []
    for number, place in enumerate(ranked.best):
        if not (row := rows.get(int(ranked.ids[place]))):
            continue
        id_, role, name, created, content, digest, starts, ends, cosines = row
        pieces = [Scored(*piece) for piece in zip(starts or (), ends or (), cosines or (), strict=True)]
        start, end = best_span(content, pieces, words)
        is_relevant = ranked.score[place] >= bar or wishes[number]
        candidates.append(
            Candidate(
                id=id_,
                role=role,
                name=name,
                created=created,
                content=content,
                digest=bytes(digest),
                start=start,
                end=end,
                score=float(ranked.score[place]),
                relevant=bool(is_relevant),
                parts={name: of_best[number] for name, of_best in shares.items()},
            )
        )
    return candidates


def _parts_of(values: Floats, best: Sequence[int]) -> list[Part]:
    """One part's ranks and scores for the best messages; `values` are its scores for all messages."""
    chosen = values[[*best]]
    ranks = len(values) - np.searchsorted(np.sort(values), chosen, side="right") + 1
    return [
        Part(rank if value > 0 else None, value) for rank, value in zip(ranks.tolist(), chosen.tolist(), strict=True)
    ]


# Participants are found by skipping from name to name in an index, so the number of messages does not matter.
_PREPARE = """
WITH RECURSIVE scope AS (
    SELECT i.id, i.message_count FROM conversations_instance i
    JOIN conversations_partition p ON p.id = i.partition_id
    WHERE {scope}
), person AS (
    SELECT 1 AS number, (
        SELECT m.name FROM conversations_message m
        WHERE m.instance_id = {number} AND m.name <> '' ORDER BY m.name LIMIT 1
    ) AS name
    UNION ALL
    SELECT number + 1, (
        SELECT m.name FROM conversations_message m
        WHERE m.instance_id = {number} AND m.name <> '' AND m.name > person.name
        ORDER BY m.name LIMIT 1
    ) FROM person WHERE name IS NOT NULL AND number < %(names)s
)
SELECT scope.id, scope.message_count, people.names, people.codes,
    (SELECT array_agg(lexeme ORDER BY positions[1])
     FROM unnest(to_tsvector(%(language)s::regconfig, %(spaced)s) || %(pairs)s::tsvector))
FROM scope, (
    SELECT array_agg(name) AS names, array_agg(hashtextextended(name, 0)) AS codes FROM person WHERE name IS NOT NULL
) people
"""

# How common lexemes are among all messages, by ANALYZE's sample; the last two frequencies are bounds.
_SHARES = """
SELECT lexeme, share FROM pg_stats, unnest(most_common_elems::text::text[], most_common_elem_freqs) AS l(lexeme, share)
WHERE schemaname = current_schema() AND tablename = 'conversations_message' AND attname = 'lexemes'
  AND lexeme = ANY(%(lexemes)s)
"""

# Pieces are fetched only for texts that are shown in part.
_FETCH = """
SELECT m.id, m.role, m.name, m.created, m.content, m.digest, piece.starts, piece.ends, piece.cosines
FROM conversations_message m LEFT JOIN LATERAL (
    SELECT array_agg(e.start ORDER BY e.start) AS starts, array_agg(e."end" ORDER BY e.start) AS ends,
        array_agg(coalesce(-(e.vector <#> %(vector)s::halfvec), 0) ORDER BY e.start) AS cosines
    FROM conversations_embedding e
    WHERE e.message_id = m.id AND e.instance_id = %(instance)s
      AND e.model_id = (SELECT id FROM conversations_embeddingmodel WHERE name = %(model)s)
) piece ON length(m.content) > %(whole)s
WHERE m.id = ANY(%(ids)s) AND m.instance_id = %(instance)s AND NOT m.abandoned
"""
