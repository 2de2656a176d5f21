"""Pure: the formula of recall, on arrays: how well each message of a scope answers a query.

Each part is scaled to at most 1, so its weight is the most it can contribute:

    score = vector + .8 words + .5 session + .5 nearby + .5 speaker + .5 answer + .6 user + .6 reply
            + .4 wish + date + .2 time - .3 question - .3 short

    vector    cosine of the message's best piece and the query, scaled from unrelated texts (0) to the best (1)
    words     BM25 (k1 .9, b .4) of the message with half of the previous turn and 0.3 of the next, / best
    session   half BM25 (k1 .9, b .75) of the session as one document, / best; half the best `vector` in it
    nearby    share of the query's inverse document frequency that occurs within three turns of the message
    speaker   1 if the query names exactly one participant, and the message is theirs
    answer    `vector` of a question that another speaker asked up to three turns before, halved by each turn between
    user      1 if the user wrote the message in a chat with an assistant, where they state the facts, and its `vector`
              or `words` is .5 or more; less below
    reply     `vector` or `words` of the assistant's reply to the user's message, whichever is larger: the user says in
              half a sentence what the assistant then spells out
    wish      1 for the eight standing wishes ("always ...", "I prefer ...") nearest to the query in a chat with an
              assistant, or the latest, if there are no vectors
    date      1 if the message was written on a day that the query names, less the longer before or after
    time      1 if the query asks when or how long, and the message has a word such as "yesterday" or "week"
    question  1 if the message ends in a question mark: the facts are in its answer
    short     1 if the message has no words, down to 0 at a dozen: "Yes, exactly" answers nothing

In a chat with an assistant, the user's facts come with a question ("I use Flask 2.3, how do I ..."), and the answer
repeats its words: `question`, `nearby` and `answer` count nothing; `user` and `reply` only count there. In a query that
is a statement, words mislead: they count less, and a name in it is an address. Where more than two people talk, many
turns of a session together tell something: `session` counts twice. For a query in a script that the embedding model was
not made for, `vector` counts less. WITH_ASSISTANT, STATEMENT, OF_MANY and FOREIGN have these weights.

A session is a run of messages without a long gap; turns of different sessions are not neighbours. Recency only breaks
ties: as a weight it would bury old messages, and those are what a memory is for. The weights were chosen on public
conversations of three kinds; docs/recall.md tells how, and what each part is worth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
from numpy.typing import NDArray

from conversations.recall.dates import Span, closeness

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

WEIGHTS: Mapping[str, float] = {
    "vector": 1.0,
    "words": 0.8,
    "session": 0.5,
    "nearby": 0.5,
    "speaker": 0.5,
    "answer": 0.5,
    "user": 0.6,
    "reply": 0.6,
    "wish": 0.4,
    "date": 1.0,
    "time": 0.2,
    "question": -0.3,
    "short": -0.3,
}
FOREIGN: Mapping[str, float] = {"vector": 0.4}
STATEMENT: Mapping[str, float] = {
    "words": 0.3,
    "session": 0.25,
    "nearby": 0.1,
    "speaker": 0.0,
    "answer": 0.2,
    "wish": 0.25,
}
WITH_ASSISTANT: Mapping[str, float] = {"nearby": 0.0, "answer": 0.0, "question": 0.0}
OF_MANY: Mapping[str, float] = {"session": 1.0}

SESSION_GAP = timedelta(hours=4)  # a night, or half a working day, separates two sessions
AROUND = 3  # turns on each side that count as nearby
WISHES = 8
LONG_ENOUGH = 12  # lexemes
MOSTLY = 0.5


@dataclass(frozen=True, slots=True)
class Frame:
    """The formula's input: one entry for each message, oldest first."""

    seconds: Floats  # when it was written (Unix time)
    sessions: Ints  # the number of its session, ascending
    speakers: Ints  # any number that identifies the speaker
    by_user: Bools  # whether its role is user, else assistant
    named: Bools  # whether its speaker has a name
    asks: Bools  # whether it is a question
    wishes: Bools  # whether it holds a standing wish
    times: Bools  # whether it has a word of time, if the query asks for one
    lengths: Floats  # in lexemes
    counts: Floats  # one row for each of the query's lexemes: its occurrences in each message
    rarity: Floats  # idf() of each of the query's lexemes
    cosines: Floats  # of the best piece; NaN where there is no vector

    def __len__(self) -> int:
        return len(self.sessions)

    @property
    def with_assistant(self) -> bool:
        """Whether this is a chat with an assistant: most messages with the role of one have no name."""
        named = self.named[~self.by_user]
        return bool(named.size) and bool(named.mean() < MOSTLY)

    @property
    def of_many(self) -> bool:
        """Whether more than two people with names take part."""
        return len(np.unique(self.speakers[self.named])) > 2


@dataclass(frozen=True, slots=True)
class Asked:
    """What a query asks about."""

    speakers: tuple[int, ...] = ()  # the one person whom it names, under each of their names
    days: tuple[Span, ...] = ()
    is_statement: bool = False
    of_assistant: bool = False  # it asks what the assistant said
    is_foreign: bool = False  # the embedding model was not made for its script


def parts(frame: Frame, asked: Asked) -> dict[str, Floats]:
    """The weighted parts of each message's score."""
    counting = weights(frame, asked)
    return {name: counting[name] * values for name, values in unweighted(frame, asked).items()}


def weights(frame: Frame, asked: Asked) -> dict[str, float]:
    """The weight of each part for this kind of query and of conversation."""
    for_query = STATEMENT if asked.is_statement else {}
    for_chat = WITH_ASSISTANT if frame.with_assistant else OF_MANY if frame.of_many and not for_query else {}
    return {**WEIGHTS, **for_query, **for_chat, **(FOREIGN if asked.is_foreign else {})}


def unweighted(frame: Frame, asked: Asked) -> dict[str, Floats]:
    """The parts of each message's score, from 0 to 1."""
    if not len(frame):
        return {name: np.zeros(0) for name in WEIGHTS}
    near = Neighbours(frame.sessions)
    vector = from_baseline(frame.cosines)
    words = _words(frame, near)
    likeness = np.maximum(vector, words)
    by_user = frame.by_user * (frame.with_assistant and not asked.of_assistant)
    return {
        "vector": vector,
        "words": words,
        "session": _session(frame, vector),
        "nearby": _nearby(frame, near),
        "speaker": np.isin(frame.speakers, asked.speakers).astype(float),
        "answer": _answer(frame, near, vector),
        "user": np.minimum(2 * likeness, 1.0) * by_user,
        "reply": near.of(likeness * ~frame.by_user, -1) * by_user,
        "wish": _wish(frame) if frame.with_assistant else np.zeros(len(frame)),
        "date": closeness(asked.days, frame.seconds),
        "time": frame.times.astype(float),
        "question": frame.asks.astype(float),
        "short": np.maximum(1 - frame.lengths / LONG_ENOUGH, 0.0),
    }


def session_numbers(seconds: Floats, follows: Bools | None = None) -> Ints:
    """The number of each message's session, from 0; `seconds` are their times, oldest first.

    `follows` tells whether each message comes right after the one before it; by default, all do.
    """
    starts = np.diff(seconds, prepend=seconds[:1]) > SESSION_GAP.total_seconds()
    return np.cumsum(starts if follows is None else starts | ~follows, dtype=np.int64)


def idf(containing: Floats | Ints, documents: int) -> Floats:
    """Inverse document frequency of words in `containing` documents (Robertson and Spärck Jones; at least 0)."""
    return np.asarray(np.log1p((documents - containing + 0.5) / (containing + 0.5)))


def bm25(counts: Floats, lengths: Floats, rarity: Floats, *, k1: float, b: float) -> Floats:
    """Okapi BM25 (Robertson and Zaragoza, "The Probabilistic Relevance Framework", 2009).

    sum over words of  idf * count (k1 + 1) / (count + k1 (1 - b + b length / mean length))
    """
    saturation = k1 * (1 - b + b * lengths / max(float(lengths.mean()), 1e-9))
    shares = np.divide(counts * (k1 + 1), counts + saturation, out=np.zeros_like(counts), where=counts > 0)
    return np.asarray(rarity @ shares)


def from_baseline(cosines: Floats) -> Floats:
    """Cosines scaled to 0..1, where 0 is the cosine of unrelated texts: .1 with one model, .7 with another.

    Three quarters of a scope count as unrelated. In a small scope that may be wrong, so the baseline is lower there.
    """
    known = cosines[~np.isnan(cosines)]
    if not known.size:
        return np.zeros_like(cosines)
    baseline = max(float(np.quantile(known, 0.75)), 0.0) * known.size / (known.size + 5)
    return to_best(np.nan_to_num(cosines, nan=baseline) - baseline)


def to_best(values: Floats) -> Floats:
    """Values scaled so that the best is 1; negative ones become 0."""
    best = float(values.max(initial=0.0))
    return np.maximum(values, 0.0) / best if best > 0 else np.zeros_like(values)


class Neighbours:
    """Shifts values from message to message within sessions."""

    def __init__(self, sessions: Ints) -> None:
        self._sessions = sessions

    def of(self, values: Floats, distance: int) -> Floats:
        """For each message (last axis), the value of the one `distance` turns before (negative: after), or 0."""
        moved = np.zeros_like(values)
        if abs(distance) >= len(self._sessions):
            return moved
        to, from_ = _pair(distance)
        moved[..., to] = values[..., from_] * (self._sessions[to] == self._sessions[from_])
        return moved


def _pair(distance: int) -> tuple[slice, slice]:
    if distance > 0:
        return slice(distance, None), slice(None, -distance)
    return slice(None, distance), slice(-distance, None)


def _words(frame: Frame, near: Neighbours) -> Floats:
    def window(values: Floats) -> Floats:
        return values + 0.5 * near.of(values, 1) + 0.3 * near.of(values, -1)

    return to_best(bm25(window(frame.counts), window(frame.lengths), frame.rarity, k1=0.9, b=0.4))


def _session(frame: Frame, vector: Floats) -> Floats:
    starts = np.flatnonzero(np.diff(frame.sessions, prepend=frame.sessions[0] - 1))
    counts = np.add.reduceat(frame.counts, starts, axis=1)
    lengths = np.add.reduceat(frame.lengths, starts)
    of_message = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(frame)))
    rarity = idf((counts > 0).sum(axis=1), len(starts))
    words = to_best(bm25(counts, lengths, rarity, k1=0.9, b=0.75))
    return (words[of_message] + np.maximum.reduceat(vector, starts)[of_message]) / 2


def _nearby(frame: Frame, near: Neighbours) -> Floats:
    here = (frame.counts > 0).astype(float)
    around = here.copy()
    for distance in range(1, AROUND + 1):
        np.maximum(around, near.of(here, distance), out=around)
        np.maximum(around, near.of(here, -distance), out=around)
    total = float(frame.rarity[here.any(axis=1)].sum())  # without words that occur nowhere
    return np.asarray(frame.rarity @ around) / total if total > 0 else np.zeros(len(frame))


def _answer(frame: Frame, near: Neighbours, vector: Floats) -> Floats:
    asked = vector * frame.asks
    answer = np.zeros(len(frame))
    for distance in range(1, min(AROUND, len(frame) - 1) + 1):
        to, from_ = _pair(distance)
        by_others = np.zeros(len(frame))
        by_others[to] = frame.speakers[to] != frame.speakers[from_]
        np.maximum(answer, 0.5 ** (distance - 1) * near.of(asked, distance) * by_others, out=answer)
    return answer


def _wish(frame: Frame) -> Floats:
    chosen = np.zeros(len(frame))
    wishes = np.flatnonzero(frame.wishes)[::-1]  # latest first, which decides between equals
    nearest = np.argsort(-np.nan_to_num(frame.cosines[wishes]), kind="stable")[:WISHES]
    chosen[wishes[nearest]] = 1.0
    return chosen
