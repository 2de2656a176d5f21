"""Words of an answer that come from a memory."""

from __future__ import annotations

from collections.abc import Sequence

from django.utils.safestring import SafeString

from console.exchange.ledger import Row
from console.exchange.sent import Turn
from console.reading import json_object
from console.words import tells_something, words
from conversations.models import Message
from conversations.turns import plain_text


def find_echoes(
    answers: Sequence[Message], sent: Sequence[Turn], added: Sequence[Turn], recalled: Sequence[str]
) -> list[str]:
    """Words of the answer that occur in the additions and nowhere in the app's request: they come from memory."""
    memory = _words(*(plain_text(json_object(turn.raw)) for turn in added), *recalled)
    own = _words(*(plain_text(json_object(turn.raw)) for turn in sent))
    said = _words(*(answer.content for answer in answers))
    return sorted(word for word in (said & memory) - own if tells_something(word) or _is_number(word))


def _is_number(word: str) -> bool:
    """Longer numbers matter to readers who look for leaked information, such as telephone numbers."""
    return word.isdigit() and len(word) > 2


def by_echo(memories: list[tuple[Row, SafeString]]) -> list[tuple[Row, SafeString]]:
    """The memories, those with the most echoed words first."""
    return sorted(memories, key=lambda memory: -memory[1].count("<mark>"))


def _words(*texts: str) -> set[str]:
    return {word for text in texts for word in words(text)}
