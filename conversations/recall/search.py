"""Recall: scope + query -> ranked memories, cut where relevance ends.

    ask      whose memory is asked: the scope's size, the query's words, whom it names, what text to embed
    read     what the formula needs of the messages that may answer (frames.py)
    rank     the formula (ranking.py)
    fetch    the best of them, each with the part of a long text that answers (spans.py)

Packing into a budget and rendering are the proxy's.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

import numpy as np
from django.conf import settings
from django.db import connection

from conversations.querysets import Scope
from conversations.recall.lexemes import split_by_script
from conversations.recall.names import in_first_person, named_in
from conversations.recall.ranking import WEIGHTS, Floats, parts
from conversations.recall.retrieval import Read, Wanted, Word, read
from conversations.recall.spans import WHOLE, Scored, best_span
from conversations.turns import storable

CANDIDATES = 50
PARTS = (*WEIGHTS,)

RELEVANT = 0.5
"""The share of the best score below which a message is not shown."""

EVIDENCE = ("vector", "words", "session", "nearby")
"""Parts of which a candidate has at least one: who spoke, alone, answers nothing."""

LONGEST_QUERY = 10_000  # characters whose words are looked for
MOST_WORDS, FEWEST_WORDS = 64, 16
COUNTED = 200_000  # how many times a word is looked up in a message, for all words of a query together
MOST_NAMES = 200


class Person(NamedTuple):
    """A participant; `code` stands for the name in frames."""

    name: str
    code: int


@dataclass(frozen=True, slots=True)
class Question:
    """A query, and whose memory it is put to. `wording` is the text whose vector recall() wants."""

    text: str
    wording: str
    instance_id: int | None = None  # None: there is no such scope yet
    messages: int = 0
    words: tuple[Word, ...] = ()
    about: Person | None = None


class Part(NamedTuple):
    """What one part of the formula adds to a score, and the message's place (from 1) among the scope's by it."""

    rank: int | None
    score: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """A stored message that may answer a query. `start` and `end` (offsets) are what to show of its content."""

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
    def text(self) -> str:
        """What to show; dots stand for what is left out."""
        before = "… " if self.start > 0 else ""
        after = " …" if self.end < len(self.content) else ""
        return f"{before}{self.content[self.start : self.end].strip()}{after}"


def ask(*, scope: Scope, query: str) -> Question:
    """Prepare a query, before anything is embedded."""
    if not any(character.isalnum() for character in query):
        return Question(query, query)  # emoji, punctuation: nothing that could be looked for
    spaced, pairs = split_by_script(storable(query[:LONGEST_QUERY]))
    with connection.cursor() as cursor:
        cursor.execute(
            _ASK,
            {
                "partition": scope.partition,
                "instance": scope.instance,
                "language": settings.RESERVOIR_LANGUAGE,
                "spaced": spaced,
                "pairs": pairs,
                "names": MOST_NAMES,
            },
        )
        row = cursor.fetchone()
    if row is None:
        return Question(query, query)
    instance_id, messages, names, codes, lexemes = row
    people = [Person(name, code) for name, code in zip(names or (), codes or (), strict=True)]
    meant = set(named_in(query, [person.name for person in people]))
    return Question(
        text=query,
        wording=(in_first_person(query, sorted(meant), settings.RESERVOIR_LANGUAGE) if meant else "") or query,
        instance_id=instance_id,
        messages=messages,
        words=_chosen(lexemes or (), messages),
        about=next((person for person in people if {person.name} == meant), None),
    )


def recall(
    *,
    question: Question,
    vector: Sequence[float] | None,
    model: str,
    limit: int = CANDIDATES,
    without: Collection[str] = (),
) -> list[Candidate]:
    """The messages that answer the question, best first; `vector` is of its wording, under `model`.

    `without`: parts of the formula to leave out. Of messages that say the same only the best is given.
    """
    if question.instance_id is None or limit < 1:
        return []
    found = read(
        Wanted(
            instance_id=question.instance_id,
            messages=question.messages,
            words=() if {"words", "session", "nearby"} <= set(without) else question.words,
            vector=None if "vector" in without and "answer" in without else vector,
            model=model,
        )
    )
    scored = parts(found.frame, about=question.about.code if question.about else None)
    for name in without:
        scored[name] = np.zeros_like(scored[name])
    score = np.sum([*scored.values()], axis=0)
    best = _best(found, scored, score, limit)
    return _fetch(question, model, vector, found, scored, score, best)


def _chosen(lexemes: Sequence[str], messages: int) -> tuple[Word, ...]:
    """The words to look for. Of a long query those that are not common, the first of them first."""
    most = min(MOST_WORDS, max(FEWEST_WORDS, COUNTED // max(messages, 1)))
    if len(lexemes) <= most and messages * len(lexemes) <= COUNTED:
        return tuple(Word(lexeme) for lexeme in lexemes)
    with connection.cursor() as cursor:
        cursor.execute(_SHARES, {"lexemes": list(lexemes)})
        shares = dict(cursor.fetchall())
    words = [Word(lexeme, shares.get(lexeme, 0.0)) for lexeme in lexemes]
    return tuple(sorted(words, key=lambda word: word.share)[:most])


def _best(found: Read, scored: dict[str, Floats], score: Floats, limit: int) -> list[int]:
    """Places of the best messages in the frame, one of each text. Of equals the latest comes first."""
    evident = np.any([scored[name] > 0 for name in EVIDENCE], axis=0)
    order = np.lexsort((-np.arange(len(score)), -score))
    order = order[evident[order]]
    _, first = np.unique(found.texts[order], return_index=True)
    return [int(place) for place in order[np.sort(first)][:limit]]


def _fetch(
    question: Question,
    model: str,
    vector: Sequence[float] | None,
    found: Read,
    scored: dict[str, Floats],
    score: Floats,
    best: Sequence[int],
) -> list[Candidate]:
    with connection.cursor() as cursor:
        cursor.execute(
            _FETCH,
            {
                "ids": [int(found.ids[place]) for place in best],
                "instance": question.instance_id,
                "model": model,
                "whole": WHOLE,
                "vector": None if vector is None else f"[{','.join(f'{x:.6g}' for x in vector)}]",
            },
        )
        rows = {row[0]: row for row in cursor.fetchall()}
    stems = [word.lexeme for word in question.words]
    shares = {name: _parts_of(values, best) for name, values in scored.items()}
    candidates = []
    for number, place in enumerate(best):
        if not (row := rows.get(int(found.ids[place]))):
            continue  # forgotten meanwhile
        id_, role, name, created, content, digest, starts, ends, cosines = row
        pieces = [Scored(*piece) for piece in zip(starts or (), ends or (), cosines or (), strict=True)]
        start, end = best_span(content, pieces, stems)
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
                score=float(score[place]),
                relevant=bool(score[place] >= RELEVANT * score[best[0]]),
                parts={name: of_best[number] for name, of_best in shares.items()},
            )
        )
    return candidates


def _parts_of(values: Floats, best: Sequence[int]) -> list[Part]:
    """What one part of the formula, its values for all messages, gives to the best of them."""
    found = values[[*best]]
    ranks = len(values) - np.searchsorted(np.sort(values), found, side="right") + 1
    return [
        Part(rank if value > 0 else None, value) for rank, value in zip(ranks.tolist(), found.tolist(), strict=True)
    ]


# The participants are found by hopping from name to name in an index, however many messages there are.
_ASK = """
WITH RECURSIVE scope AS (
    SELECT i.id, i.message_count FROM conversations_instance i
    JOIN conversations_partition p ON p.id = i.partition_id
    WHERE p.name = %(partition)s AND i.name = %(instance)s
), person AS (
    SELECT 1 AS number, (
        SELECT m.name FROM conversations_message m
        WHERE m.instance_id = (SELECT id FROM scope) AND m.name <> '' ORDER BY m.name LIMIT 1
    ) AS name
    UNION ALL
    SELECT number + 1, (
        SELECT m.name FROM conversations_message m
        WHERE m.instance_id = (SELECT id FROM scope) AND m.name <> '' AND m.name > person.name
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

# How common lexemes are among all messages, as far as ANALYZE has seen; the last two frequencies are bounds.
_SHARES = """
SELECT lexeme, share FROM pg_stats, unnest(most_common_elems::text::text[], most_common_elem_freqs) AS l(lexeme, share)
WHERE schemaname = current_schema() AND tablename = 'conversations_message' AND attname = 'lexemes'
  AND lexeme = ANY(%(lexemes)s)
"""

# Pieces are needed of those texts alone that are shown in part.
_FETCH = """
SELECT m.id, m.role, m.name, m.created, m.content, m.digest, piece.starts, piece.ends, piece.cosines
FROM conversations_message m LEFT JOIN LATERAL (
    SELECT array_agg(e.start ORDER BY e.start) AS starts, array_agg(e."end" ORDER BY e.start) AS ends,
        array_agg(coalesce(-(e.vector <#> %(vector)s::halfvec), 0) ORDER BY e.start) AS cosines
    FROM conversations_embedding e JOIN conversations_embeddingmodel model ON model.id = e.model_id
    WHERE e.message_id = m.id AND model.name = %(model)s
) piece ON length(m.content) > %(whole)s
WHERE m.id = ANY(%(ids)s) AND m.instance_id = %(instance)s AND NOT m.abandoned
"""
