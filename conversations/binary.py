"""Pure: replaces files inside a text (data URLs and Base64, as front ends and image models write them) by notes.

Models cannot read such files, search finds no words in them, and one would fill a block of memories. The plain text of
a message holds a note instead; the payload keeps the file.
"""

from __future__ import annotations

import re

SHORTEST = 256  # characters; a shorter run may be a key, a hash or a long word
_TYPE = r"[\w.+-]{1,100}/[\w.+-]{1,100}"
_DATA_URL = re.compile(rf"data:({_TYPE})?(?:;[\w.=+-]{{1,100}}){{0,4}};base64,[A-Za-z0-9+/=_%-]*", re.ASCII)
_RUN = re.compile(rf"[A-Za-z0-9+/_-]{{{SHORTEST},}}={{0,2}}", re.ASCII)
_SIGNS = "[A-Za-z0-9+/]"
_LINES = re.compile(
    rf"(?:^{_SIGNS}{{60,100}}\r?\n){{3,}}(?:{_SIGNS}{{60,100}}|{_SIGNS}{{0,99}}={{1,2}})$", re.ASCII | re.MULTILINE
)
_KINDS = (re.compile("[a-z]"), re.compile("[A-Z]"), re.compile("[0-9]"))


def without_files(text: str) -> str:
    """The text with each file replaced by a note that names its type."""
    if len(text) < SHORTEST:
        return text
    if ";base64," in text:
        text = _DATA_URL.sub(lambda match: f"[{match[1] or 'file'} left out]", text)
    return _RUN.sub(_note, _LINES.sub(_note, text))


def _note(match: re.Match[str]) -> str:
    """Base64 of a file has letters of both cases and digits; "aaaa…" and a long word do not."""
    return "[file left out]" if all(kind.search(match[0]) for kind in _KINDS) else match[0]
