"""Pure: which participants a question is about.

A question mentions people in the third person, but they wrote about themselves in the first, and the embedded text
does not say who wrote it. The vector of a question that names a person is therefore close to every text with that
name, most of it written by others. Reworded as that person would say it, the question is close to what they said about
themselves: on questions about conversations between people, the first ten results by vector alone contain 64 % of the
evidence instead of 33 %.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

LONGEST = 1_000  # characters; a longer text is not searched for names, since it is no question about a person

FIRST_PERSON = {"english": ("I", "my")}  # in other languages the name is removed


def named_in(text: str, participants: Iterable[str]) -> list[str]:
    """The participants that the text mentions by full name or by its first word. Empty for a text over LONGEST."""
    if len(text) > LONGEST:
        return []
    return [name for name in participants if (called := _called(name, text)) and called.search(text)]


def in_first_person(text: str, names: Iterable[str], language: str) -> str:
    """The text with these names replaced by "I" and "my", as those people would say it about themselves."""
    subject, possessive = FIRST_PERSON.get(language, ("", ""))
    for name in names:
        if called := _called(name, text):
            text = called.sub(lambda match: possessive if match["possessive"] else subject, text)
    return " ".join(text.split())


def _called(name: str, text: str) -> re.Pattern[str] | None:
    words = name.split()
    if not words or len(words[0]) < 2:
        return None
    # "Will" is a name and "will" is not; but in a text without capitals, "when did caroline go", case says nothing.
    flags = re.NOFLAG if any(character.isupper() for character in text) else re.IGNORECASE
    spellings = "|".join(map(re.escape, dict.fromkeys([" ".join(words), words[0]])))
    return re.compile(rf"(?<!\w)(?:{spellings})(?P<possessive>['\u2019]s)?(?!\w)", flags)
