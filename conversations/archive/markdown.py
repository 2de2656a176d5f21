"""Pure: exported objects as Markdown, for people to read. It is not for import."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from conversations.turns import Json

# What begins a line and would be structure of the document: a heading, a rule, or a heading's underline.
_STRUCTURE = re.compile(r"^(\s*)(#{1,6}\s|[-=_*]{3,}\s*$)", re.MULTILINE)
_FENCE = re.compile(r"^\s*(```|~~~)", re.MULTILINE)
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]")


def as_markdown(objects: Iterable[Json]) -> Iterator[str]:
    """A heading for each change of scope and of day, and each message with its speaker and time (UTC).

    `objects` are those of writing.export(). Exchanges without messages are left out.
    """
    scope, day = None, None
    for each in objects:
        if "role" not in each:
            continue
        here = (each["partition"], each["instance"])
        moment = datetime.fromtimestamp(each["timestamp"] / 1000, UTC)
        if here != scope:
            scope, day = here, None
            yield f"# {_line(here[0])} / {_line(here[1])}\n\n"
        if moment.date() != day:
            day = moment.date()
            yield f"## {moment:%Y-%m-%d}\n\n"
        name = f" ({_line(each['name'])})" if each.get("name") else ""
        text = _quoted(each["content"]) if each["content"].strip() else "_(no text)_"
        yield f"**{_line(each['role'])}**{name}, {moment:%H:%M}\n\n{text}\n\n"


def _quoted(text: str) -> str:
    """The text, so that nothing in it is a heading of this document. Text with code blocks stays as it is."""
    text = _CONTROLS.sub("\ufffd", text).strip("\n")
    if not _FENCE.search(text):
        return _STRUCTURE.sub(r"\1\\\2", text)
    # A code block that is never closed would swallow the rest of the document.
    return text if len(_FENCE.findall(text)) % 2 == 0 else f"{text}\n```"


def _line(text: str) -> str:
    return _CONTROLS.sub("\ufffd", " ".join(text.split()))
