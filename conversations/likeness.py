"""Pure: whether a reader would take two texts for the same turn, even if a client has respelt or changed one.

`spelled` maps spellings of one text to a single one; `alike` compares a stored turn with what a client resent in its
place: a question in a template, an answer cut short by Stop, a turn without its image.
"""

from __future__ import annotations

import re
import unicodedata

# Clients add, drop and convert these, and readers see no difference.
_INVISIBLE = re.compile("[\u200b-\u200d\u2060\ufeff]")
_SPACES = re.compile("[\u00a0\u2000-\u200a\u202f\u205f\u3000]")
_LINE_ENDS = re.compile("\r\n?")
_TRAILING = re.compile(r"[ \t]+(?=\n)")
_EMPTY_LINES = re.compile(r"\n{3,}")
_THINKING = re.compile(r"\s*(?:<(think|thinking|reasoning)>.*?</\1>\s*)+", re.DOTALL)
_BOUNDS = "\n<>[]{}\"'`"

LONGEST = 200_000  # characters of a text that are compared
SHORTEST = 3  # characters; finding a shorter text inside another proves nothing


def spelled(text: str) -> str:
    """The canonical spelling of a text: NFC, line ends as LF, no invisible characters, plain spaces, no
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
    """An answer without its leading thinking, which some models write and clients remove."""
    if not text.lstrip().startswith("<"):
        return text
    return _THINKING.sub("", text, count=1) if _THINKING.match(text) else text


def alike(role: str, stored: str, resent: str) -> bool:
    """Whether a client may have made one text from the other: they are equal except for blanks; one answer begins with
    the other (cut or continued); or one user message is a template that contains the other.
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
    """Whether the template contains the question as a whole: at its end, or bounded by a line break or a mark. A
    question that continues is another question.
    """
    at = template.rfind(question)
    if at < 0:
        return False
    before, after = template[at - 1 : at], template[at + len(question) :][:1]
    return (not before.isalnum()) if not after else (before in _BOUNDS and after in _BOUNDS)


def _comparable(role: str, text: str) -> str:
    text = spelled(text[:LONGEST])
    return without_thinking(text) if role == "assistant" else text
