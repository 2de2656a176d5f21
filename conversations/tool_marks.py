"""Pure: the parts of a user's message that a coding tool wrote into it, between tags of its own.

Claude Code adds `<system-reminder>…</system-reminder>` to what a person types, and other tools add the files that are
open. Such parts are no words of the person: recall does not ask with them, and the plain text does not hold them. The
payload does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# Claude Code; Codex; Cline and Roo Code.
TAGS = ("system-reminder", "environment_context", "user_instructions", "environment_details")


def _opening(tags: Iterable[str]) -> re.Pattern[str]:
    return re.compile(rf"<({'|'.join(map(re.escape, tags))})(?:\s[^<>]{{0,500}})?>")


_open = _opening(TAGS)


def know(tags: Iterable[str]) -> None:
    """Leave out parts in these tags as well as in TAGS. Called once, at the start of the process."""
    global _open
    _open = _opening([*TAGS, *tags])


def without_marked(text: str) -> str:
    """The text without parts in such tags; a tag that is never closed stays. Takes linear time for any text."""
    kept: list[str] = []
    at = looked = 0
    unclosed: set[str] = set()
    while match := _open.search(text, looked):
        tag, looked = match[1], match.end()
        if tag in unclosed:
            continue
        close = f"</{tag}>"
        end = text.find(close, looked)
        if end < 0:
            unclosed.add(tag)
            continue
        kept.append(text[at : match.start()])
        at = looked = end + len(close)
    return "".join([*kept, text[at:]]).strip() if kept else text
