"""Pure: whether two texts are one turn to a reader, though a client spells or changes it in its own way.

`spelled` maps spellings of one text to a single one; `alike` compares a stored turn with what a client resent in its
place: a template around a question, an answer that Stop cut short, an image left out.
"""

from __future__ import annotations

import re
import unicodedata

# Clients add, drop and convert these without anyone seeing a difference.
_INVISIBLE = re.compile("[\u200b-\u200d\u2060\ufeff]")
_SPACES = re.compile("[\u00a0\u2000-\u200a\u202f\u205f\u3000]")
_LINE_ENDS = re.compile("\r\n?")
_TRAILING = re.compile(r"[ \t]+(?=\n)")
_EMPTY_LINES = re.compile(r"\n{3,}")
_THINKING = re.compile(r"\s*(?:<(think|thinking|reasoning)>.*?</\1>\s*)+", re.DOTALL)
_BOUNDS = "\n<>[]{}\"'`"

LONGEST = 200_000  # characters of a text that are compared
SHORTEST = 3  # characters below which a text inside another says nothing


def spelled(text: str) -> str:
    """The text in the one spelling that stands for all: NFC, line ends as LF, no invisible characters, plain spaces, no
    blanks at the end of lines, at most one empty line in a row.
    """
    if not text.isascii():
        if not unicodedata.is_normalized("NFC", text):
            text = unicodedata.normalize("NFC", text)
        text = _SPACES.sub(" ", _INVISIBLE.sub("", text))
    if "\r" in text:
        text = _LINE_ENDS.sub("\n", text)
    if " \n" in text or "\t\n" in text:
        text = _TRAILING.sub("", text)
    if "\n\n\n" in text:
        text = _EMPTY_LINES.sub("\n\n", text)
    return text.strip()


def without_thinking(text: str) -> str:
    """An answer without the thinking that some models write at its beginning and clients cut out."""
    if not text.lstrip().startswith("<"):
        return text
    return _THINKING.sub("", text, count=1) if _THINKING.match(text) else text


def alike(role: str, stored: str, resent: str) -> bool:
    """Whether a client may have made one text from the other: blanks aside they are equal; one answer begins with the
    other (cut or continued); one message of a user is a template that holds the other.
    """
    first, second = _comparable(role, stored), _comparable(role, resent)
    if first.split() == second.split():
        return True
    shorter, longer = sorted((first, second), key=len)
    if len(shorter) < SHORTEST:
        return False
    if role == "assistant":
        return longer.startswith(shorter)
    return role == "user" and _holds(longer, shorter)


def _holds(template: str, question: str) -> bool:
    """Whether the question stands in the template as a whole: as its end, or bounded by a line break or a mark. A
    question with more words after it is another question.
    """
    at = template.rfind(question)
    if at < 0:
        return False
    before, after = template[at - 1 : at], template[at + len(question) :][:1]
    return (not before.isalnum()) if not after else (before in _BOUNDS and after in _BOUNDS)


def _comparable(role: str, text: str) -> str:
    text = spelled(text[:LONGEST])
    return without_thinking(text) if role == "assistant" else text
