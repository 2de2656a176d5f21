"""Pure: what the readers of other programs' exports make of a conversation, and what they share."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from conversations.turns import Json

T = TypeVar("T")

EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
MILLISECONDS = 10**11  # a larger number of seconds would be in the year 5138
NEVER_STORED = {"system", "developer"}  # system prompts belong to requests, not to what was said


@dataclass(frozen=True, slots=True)
class Said:
    """One turn: its payload as the chat API has it, the id that the program gave it, and its time."""

    payload: Json
    id: str = ""
    created: datetime | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """One conversation, oldest turn first. `bad` says which of its messages could not be read, and why."""

    source: str  # the program: the default partition
    id: str
    title: str
    created: datetime | None
    said: tuple[Said, ...]
    bad: tuple[str, ...] = ()


def read_each(
    messages: Iterable[tuple[str, T]], read: Callable[[T], Said | None]
) -> tuple[tuple[Said, ...], tuple[str, ...]]:
    """The turns that `read` makes of messages, each after its label; and for each message that it refuses by a
    ValueError, the label and the reason. A message that is no turn gives None.
    """
    found, bad = [], []
    for label, message in messages:
        try:
            if one := read(message):
                found.append(one)
        except ValueError as error:
            bad.append(f"{label}: {error}")
    return tuple(found), tuple(bad)


def moment(value: Any) -> datetime | None:
    """A time as exports write it: ISO 8601, or seconds or milliseconds since 1970. None if there is none.

    Raises ValueError for a value that is no time, or not between 2000 and tomorrow.
    """
    if value is None or value == "":
        return None
    try:
        if isinstance(value, str):
            found = datetime.fromisoformat(value)
            found = found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError
        else:
            found = datetime.fromtimestamp(value / 1000 if value >= MILLISECONDS else value, UTC)
    except (ValueError, OverflowError, OSError):
        raise ValueError("its time is invalid") from None
    if not EARLIEST <= found <= datetime.now(UTC) + timedelta(days=1):
        raise ValueError(f"its time is in the year {found.year}")
    return found


def text_of(content: Any) -> str:
    """The words of a string or of a list of parts; parts that are not text are skipped."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "\n".join(filter(None, map(_part, content)))


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict) or part.get("type", "text") not in ("text", "input_text", "output_text"):
        return ""
    text = part.get("text")
    text = text.get("value") if isinstance(text, dict) else text
    return text if isinstance(text, str) else ""


def branch(parents: Mapping[str, str | None], leaf: str | None) -> list[str]:
    """The ids from the root down to a leaf. Stops at an unknown parent and at a loop."""
    path: dict[str, None] = {}
    while leaf is not None and leaf in parents and leaf not in path:
        path[leaf] = None
        leaf = parents[leaf]
    return [*path][::-1]


def objects(value: Any, what: str) -> list[Json]:
    """A list of objects. Raises ValueError for anything else."""
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise ValueError(f"{what} is not a list of objects")
    return value


def first_text(value: Mapping[str, Any], names: Sequence[str]) -> str:
    """The first of these fields that is a text, without blanks at its ends; "" without one."""
    texts = (value.get(name) for name in names)
    return next((text.strip() for text in texts if isinstance(text, str) and text.strip()), "")


_OPENING = re.compile(r'<details type="([a-z_]{1,40})"')


def without_details(text: str, kinds: Collection[str]) -> str:
    """The text without `<details type="...">` blocks of these kinds, which front ends write into answers."""
    kept, at = [], 0
    for found in _OPENING.finditer(text):
        if found.start() < at or found[1] not in kinds:
            continue
        end = text.find("</details>", found.end())
        if end < 0:
            break
        kept.append(text[at : found.start()])
        at = end + len("</details>")
    return "".join([*kept, text[at:]]).strip() if kept else text


def said(role: str, text: str, **about: Any) -> Said:
    return Said({"role": role, "content": text}, **about)
