"""Two lanes of texts before one model: questions, which people wait for, and messages, which can wait.

What waits in a lane runs in batches of similar length, whichever thread brought it. No run of messages begins while a
question waits or runs, and on Linux messages run at a low priority, so that a question gets the core at once from a run
that has begun. Each lane has a thread of its own, since the allocator keeps a run's memory (60 MB) for each thread that
ever ran one: with eight threads embedding at once, the process peaks at 365 MB instead of 666 MB.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from conversations.embedders.base import Vectors

Ids = Sequence[int]

BATCH_TOKENS = 256
"""Tokens of one run, including padding: 16 texts of 16, or one of 256. A run takes 30 to 70 ms of one core, so that
those of other texts are not far away."""

NICE = 10
"""The priority of messages: on a busy core they get about a tenth of it. A run needs Python's lock for moments only, so
that its low priority delays no thread that has a higher one."""

LONGEST_WAIT = 1.0  # seconds that a run of messages waits for questions: an endless row of them must not stop it


class _Row:
    """A text on its way: its tokens, then its vector or an error."""

    def __init__(self, ids: Ids) -> None:
        self.ids = ids
        self.vector: Vectors | None = None
        self.error: BaseException | None = None

    @property
    def is_done(self) -> bool:
        return self.vector is not None or self.error is not None


class Lanes:
    """Runs texts through `run`, which gives one vector for each list of tokens. Thread-safe."""

    def __init__(self, run: Callable[[Sequence[Ids]], Vectors]) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._questions: list[_Row] = []
        self._messages: list[_Row] = []
        self._asking = 0  # calls with questions under way
        self._calm = threading.Event()  # none is
        self._calm.set()
        self._for_questions = ThreadPoolExecutor(1, thread_name_prefix="embedder-questions")
        self._for_messages = ThreadPoolExecutor(1, thread_name_prefix="embedder-messages", initializer=_be_nice)

    def questions(self, texts: Sequence[Ids]) -> list[Vectors]:
        """The vectors of texts that people wait for."""
        with self._lock:
            self._asking += 1
            self._calm.clear()
        try:
            return self._through(
                self._questions, texts, lambda: self._for_questions.submit(self._next_questions).result()
            )
        finally:
            with self._lock:
                self._asking -= 1
                if not self._asking:
                    self._calm.set()

    def messages(self, texts: Sequence[Ids]) -> list[Vectors]:
        """The vectors of texts that can wait."""
        return self._through(self._messages, texts, lambda: self._for_messages.submit(self._next_messages).result())

    def close(self) -> None:
        """Finish what runs, and end the threads."""
        self._for_questions.shutdown()
        self._for_messages.shutdown()

    def _through(self, lane: list[_Row], texts: Sequence[Ids], turn: Callable[[], None]) -> list[Vectors]:
        rows = [_Row(ids) for ids in texts]
        with self._lock:
            lane += rows
        try:
            while not all(row.is_done for row in rows):
                turn()
        finally:
            with self._lock:  # after an error, some may be left
                _remove(lane, rows)
        for row in rows:
            if row.error:
                raise row.error
        return [row.vector for row in rows if row.vector is not None]

    def _next_questions(self) -> None:
        self._next(self._questions)

    def _next_messages(self) -> None:
        self._calm.wait(LONGEST_WAIT)
        self._next(self._messages)

    def _next(self, lane: list[_Row]) -> None:
        """Run the texts that wait longest, as many of similar length as fit into a batch."""
        with self._lock:
            batch = _batch(lane)
            _remove(lane, batch)
        if not batch:
            return  # an earlier turn took them along
        try:
            vectors = self._run([row.ids for row in batch])
            for row, vector in zip(batch, vectors, strict=True):
                row.vector = vector
        except BaseException as error:
            for row in batch:
                row.error = error


def _remove(lane: list[_Row], rows: Sequence[_Row]) -> None:
    gone = set(rows)
    lane[:] = [row for row in lane if row not in gone]


def _batch(lane: Sequence[_Row]) -> list[_Row]:
    """The first row, and those closest to it in length while the padded batch has at most BATCH_TOKENS."""
    if not lane:
        return []
    first = len(lane[0].ids)
    batch: list[_Row] = []
    longest = 0
    for row in sorted(lane, key=lambda row: abs(len(row.ids) - first)):
        longest = max(longest, len(row.ids))
        if batch and longest * (len(batch) + 1) > BATCH_TOKENS:
            break
        batch.append(row)
    return batch


def _be_nice() -> None:
    """Lower the priority of this thread. Only Linux has one for each thread."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
