"""Words of an answer that come from a memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from console.exchange.ledger import Table
from console.exchange.sent import Turn
from console.reading import json_object
from console.words import tells_something, words
from conversations.models import Message
from conversations.turns import plain_text

RARE = 2  # at most this number of the messages considered hold a rare word

# A word of an answer, and the numbers of the memories that hold it.
Echoes = Mapping[str, Sequence[int]]


def find_echoes(answers: Sequence[Message], sent: Sequence[Turn], added: Sequence[Turn], table: Table) -> Echoes:
    """Telling words of the answers that occur in what was added and nowhere in the app's request.

    A word tells something if it is a longer number, if few of the messages considered hold it, or if it stands beside
    another such word. Memories are numbered from 1 in the order of `table.memories`.
    """
    memories = [set(words(row.text)) for row in table.memories]
    # Forgetting a quoted message removes the addition; the other quoted messages are still stored.
    texts = [plain_text(json_object(turn.raw)) for turn in added] or [
        row.text for row in (*table.memories, *table.turns)
    ]
    memory = {word for text in texts for word in words(text)}
    own = {word for turn in sent for word in words(plain_text(json_object(turn.raw)))}
    said = [words(answer.content) for answer in answers]
    new = {word for line in said for word in line if word in memory and word not in own}
    new = {word for word in new if tells_something(word) or _is_number(word)}
    together = {word for line in said for pair in pairwise(line) if new.issuperset(pair) for word in pair}
    considered = [set(words(row.text)) for row in table.rows]
    rare = {word for word in new if sum(word in text for text in considered) <= RARE}
    telling = {word for word in new if word in together or word in rare or _is_number(word)}
    return {word: [n for n, text in enumerate(memories, 1) if word in text] for word in sorted(telling)}


def _is_number(word: str) -> bool:
    """Longer numbers matter to readers who look for leaked information, such as telephone numbers."""
    return word.isdigit() and len(word) > 2
