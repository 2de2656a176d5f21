"""Pure: files in the middle of a text, as front ends and image models write them: data URLs and Base64.

A model reads nothing in them, no word of them can be searched for, and one fills a block of memories. The plain text of
a message holds a note in their place; the payload keeps them.
"""

from __future__ import annotations

import re

SHORTEST = 256  # characters; what is shorter may be a key, a hash or a long word
_TYPE = r"[\w.+-]{1,100}/[\w.+-]{1,100}"
_DATA_URL = re.compile(rf"data:({_TYPE})?(?:;[\w.=+-]{{1,100}}){{0,4}};base64,[A-Za-z0-9+/=_%-]*", re.ASCII)
_RUN = re.compile(rf"[A-Za-z0-9+/_-]{{{SHORTEST},}}={{0,2}}", re.ASCII)
_SIGNS = "[A-Za-z0-9+/]"
_LINES = re.compile(
    rf"(?:^{_SIGNS}{{60,100}}\r?\n){{3,}}(?:{_SIGNS}{{60,100}}|{_SIGNS}{{0,99}}={{1,2}})$", re.ASCII | re.MULTILINE
)
_KINDS = (re.compile("[a-z]"), re.compile("[A-Z]"), re.compile("[0-9]"))


def without_files(text: str) -> str:
    """The text with each file in it replaced by a note of its kind."""
    if len(text) < SHORTEST:
        return text
    if ";base64," in text:
        text = _DATA_URL.sub(lambda match: f"[{match[1] or 'file'} left out]", text)
    return _RUN.sub(_note, _LINES.sub(_note, text))


def _note(match: re.Match[str]) -> str:
    """Base64 of a file has letters of both cases and digits; "aaaa…" and a long word do not."""
    return "[file left out]" if all(kind.search(match[0]) for kind in _KINDS) else match[0]
