"""Generated conversations: English words by their frequency, so that a word has as many tokens as in real texts.

A history is written as an archive with vectors, which `manage.py import` stores in seconds: embedding it would take
minutes. The vectors lie around one centre for each topic.
"""

from __future__ import annotations

import json
import random
import re
import uuid
from collections.abc import Iterator
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from conversations.embedders.local_models import ENGLISH

VOCABULARY = Path(__file__).parent.parent / "conversations/embedders/bert-base-uncased/vocab.txt"  # by frequency
FIRST = 1_750_000_000_000  # milliseconds, when everything begins
TOPICS, DIMENSIONS = 50, 384


class Writer:
    """Writes sentences, determined by a seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._words, self._weights = _words()

    def sentence(self, words: int) -> str:
        return " ".join(self.random.choices(self._words, cum_weights=self._weights, k=words)).capitalize()

    def question(self) -> str:
        """A fresh question of 8 to 20 words."""
        return self.sentence(self.random.randint(8, 20)) + "?"

    def statement(self) -> str:
        """A message of 8 to 40 words."""
        return self.sentence(self.random.randint(8, 40)) + "."


@cache
def _words() -> tuple[list[str], list[float]]:
    """Words, most frequent first, and their added weights (Zipf)."""
    words = re.findall(r"^[a-z]{2,}$", VOCABULARY.read_text("utf-8"), re.MULTILINE)
    return words, list(accumulate(1 / (rank + 10) for rank in range(len(words))))


def history(partition: str, instance: str, messages: int, *, seed: int) -> Iterator[str]:
    """The lines of an archive: one scope's messages, alternately the user's and the assistant's."""
    writer, numbers = Writer(seed), np.random.default_rng(seed)
    centres = numbers.normal(size=(TOPICS, DIMENSIONS))
    for at in range(messages):
        vector = centres[at // 20 % TOPICS] + numbers.normal(size=DIMENSIONS)
        text = writer.statement()
        message: dict[str, Any] = {
            "trace_id": str(uuid.UUID(int=writer.random.getrandbits(128))),
            "partition": partition,
            "instance": instance,
            "role": ("user", "assistant")[at % 2],
            "content": text,
            "timestamp": FIRST + 60_000 * at,
            "exchange": None,
            "embeddings": [
                {
                    "model": ENGLISH.name,
                    "start": 0,
                    "end": len(text),
                    "vector": (vector / np.linalg.norm(vector)).round(4).tolist(),
                }
            ],
        }
        yield json.dumps(message) + "\n"
