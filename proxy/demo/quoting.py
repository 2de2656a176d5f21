"""The messages of a request -> an answer that quotes them. Pure.

It stands in for a model: a fact that Reservoir adds to a request comes back in the answer, and no other fact does.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from proxy.prompt.enrichment import BLOCK_START

SELF = "I am not a model, I only quote what I was given."
LONGEST_QUOTE = 300  # characters; of a longer text, one sentence is quoted

_DAY = re.compile(r"(\d{4}-\d\d-\d\d) \w{3}")
_NOTE = re.compile(r"- (\d\d:\d\d) ([^:]+): (.*)")
_SENTENCE_END = re.compile(r"(?<=[.!?…])\s+|\n+")
_WORD = re.compile(r"\w+")
_STOP_WORDS = frozenset(
    """
    a about an and are as at be been but by can could did do does for from had has have how i if in is it its me my no
    not of on or our please s she he so t that the their them then there they this to us was we were what when where
    which who why will with would you your
    """.split()  # noqa: SIM905
)


@dataclass(frozen=True, slots=True)
class Note:
    """Something that the request says was said before."""

    source: str  # who said it, and when
    role: str
    text: str


def answer(messages: Sequence[Mapping[str, Any]]) -> str:
    """Quotes the note that shares the most words with the last user message; rare words count more.

    Notes are the lines of Reservoir's memory block and the earlier turns. Questions and former answers of this
    function are not quoted.
    """
    at = max((i for i, message in enumerate(messages) if message.get("role") == "user"), default=None)
    if at is None:
        return f"{SELF} This request asks nothing."
    question = _text(messages[at])
    notes = [note for note in _notes(messages[:at]) if note.text and note.text != question.strip()]
    best = _best(question, notes)
    if best is None:
        return f"{SELF} Nothing in it ({len(notes)} notes) shares a word with your question."
    quote = best.text if len(best.text) <= LONGEST_QUOTE else _best_sentence(question, best)
    return f'{SELF} From {best.source}: "{quote}"'


def _best(question: str, notes: Sequence[Note]) -> Note | None:
    """The later one of equals, and a user's words before an assistant's."""
    asked = _words(question)
    frequency = Counter(word for note in notes for word in _words(note.text))
    scores = [sum(1 / frequency[word] for word in asked & _words(note.text)) for note in notes]
    ranked = [(score, notes[i].role == "user", i) for i, score in enumerate(scores) if score]
    return notes[max(ranked)[2]] if ranked else None


def _best_sentence(question: str, note: Note) -> str:
    sentences = [Note("", "", sentence) for sentence in _SENTENCE_END.split(note.text)]
    best = _best(question, sentences)
    return best.text if best else note.text


def _words(text: str) -> frozenset[str]:
    """Without stop words; a plural counts as its singular."""
    words = (word for word in _WORD.findall(text.casefold()) if word not in _STOP_WORDS)
    return frozenset(word[:-1] if len(word) > 3 and word.endswith("s") else word for word in words)


def _notes(messages: Sequence[Mapping[str, Any]]) -> Iterator[Note]:
    for message in messages:
        text, role = _text(message), str(message.get("role"))
        if text.startswith(BLOCK_START):
            yield from _notes_of_block(text)
        elif role in ("user", "assistant") and not text.startswith(SELF):
            yield Note(f"{role}, in an earlier turn", role, _statements(text))


def _notes_of_block(block: str) -> Iterator[Note]:
    day, said = "", list[tuple[str, str, list[str]]]()
    for line in block.splitlines():
        if header := _DAY.fullmatch(line):
            day = header[1]
        elif note := _NOTE.fullmatch(line):
            said.append((f"{note[2]}, {day} {note[1]} UTC", note[2], [note[3]]))
        elif said and line.startswith("  "):
            said[-1][2].append(line.strip())
    for source, speaker, lines in said:
        text = "\n".join(lines)
        if not text.startswith(SELF):
            yield Note(source, "assistant" if speaker == "assistant" else "user", _statements(text))


def _statements(text: str) -> str:
    """The text without its questions."""
    return " ".join(one for one in _SENTENCE_END.split(text.strip()) if not one.endswith("?"))


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = (part.get("text") for part in parts if isinstance(part, Mapping))
    return "\n".join(text for text in texts if isinstance(text, str))
