"""Sessions and threads: where a conversation pauses, and where its subject changes. Pure.

A session is a run of messages without a long gap in time. A thread is a run of consecutive messages on one topic: each
stays linked to the previous ones while it is similar enough to the last of them, or to the thread as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from conversations.recall.ranking import SESSION_GAP

# Cosine under the default embedding model. Measured in chats: consecutive messages lie at .45 in the middle, any two
# messages of the same people at .25. This gives threads of eight messages or so.
SIMILAR = 0.3

Vector = NDArray[np.float32]


def sessions(times: Sequence[datetime], gap: timedelta = SESSION_GAP) -> list[int]:
    """For each message, in order of time, the index of the first message of its session."""
    starts: list[int] = []
    for i, moment in enumerate(times):
        pauses = i == 0 or moment - times[i - 1] > gap
        starts.append(i if pauses else starts[-1])
    return starts


def threads(
    vectors: Sequence[Vector | None],
    *,
    begins: Sequence[bool] | None = None,
    breaks: Sequence[int] = (),
    similar: float = SIMILAR,
) -> list[int]:
    """For each message, in order of time, the index of the first message of its thread.

    `vectors` have length 1; a message without one (no text, or not embedded yet) stays in the current thread. A
    thread may begin only where `begins` is true: with a question, never with its answer. Messages between two such
    places are compared as one. A thread always ends at the indexes in `breaks`.
    """
    ended = {0, *breaks}
    heads = [i for i in range(len(vectors)) if i in ended or begins is None or begins[i]]
    starts: list[int] = []
    last: Vector | None = None
    whole: Vector | None = None
    for head, after in pairwise([*heads, len(vectors)]):
        unit = _unit([vector for vector in vectors[head:after] if vector is not None])
        linked = head not in ended and (
            unit is None or last is None or whole is None or max(_cosine(unit, last), _cosine(unit, whole)) >= similar
        )
        starts += [starts[-1] if linked else head] * (after - head)
        if not linked:
            last = whole = None
        if unit is not None:
            last, whole = unit, unit if whole is None else whole + unit
    return starts


def _unit(vectors: Sequence[Vector]) -> Vector | None:
    if not vectors:
        return None
    total = sum(vectors[1:], start=vectors[0])
    return np.asarray(total / max(_length(total), 1e-9), dtype=np.float32)


def _cosine(one: Vector, other: Vector) -> float:
    """The cosine of a vector of length 1 and any other vector."""
    return float(one @ other) / max(_length(other), 1e-9)


def _length(vector: Vector) -> float:
    """The length of a vector; for short ones, in half the time of numpy's norm."""
    return math.sqrt(float(vector @ vector))
