"""The entries of a ledger as they are stored: a few dozen bytes for each message that recall considered.

An entry says that a message was considered: its rank and share in each part of the formula, its score, the piece of its
text that was meant, its tokens, whether it was shown and why. It is a dict of JSON values to all other code, as in the
API and in exports. Here it is packed into a list of whole numbers, each in as few bytes as it needs (LEB128), and the
entries of a ledger follow each other. Entries that have other fields or values, as imports may, are stored as JSON. No
entry holds a message's text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, TypeVar

from django.contrib.postgres.fields import ArrayField
from django.db.models import BinaryField

from conversations import leb128
from conversations.turns import Json

T = TypeVar("T")

ARMS = (
    "vector",
    "words",
    "session",
    "nearby",
    "speaker",
    "answer",
    "user",
    "wish",
    "date",
    "time",
    "question",
    "short",
    "reply",
    "reranker",
)
"""The parts of the formula. Their places are stored: new ones are added at the end, and none is removed."""

SOURCES = ("recall", "latest")
UNIT = 100  # scores and shares are stored with two digits behind the point, as the admin shows them
JSON = (b"{", b"[")


class Why(StrEnum):
    """Why a message is shown or not, for readers who have never seen the code. Their places are stored, as in ARMS."""

    RELEVANT = "shown: relevant"
    WISH = "shown: a standing wish"
    LATEST = "shown: one of the latest messages"
    NO_ROOM = "left out: no room for it in the budget for memories"
    SAME_TEXT = "left out: the same text is shown already"
    NO_TEXT = "left out: it has no text that could be shown"
    WINDOW = "left out: the request would not have fitted the model's window"
    LOW_SCORE = "left out: scores less than half of the best"
    OTHERWISE = "left out"
    AMONG_LATEST = "not repeated: it is among the latest messages, which are added as turns"
    IN_REQUEST = "not repeated: the request holds it already"


_WHYS = tuple(Why)
_PLACES = {why.value: place for place, why in enumerate(_WHYS)}
_ARM_PLACES = {name: place for place, name in enumerate(ARMS)}


# The bits that say which fields an entry has; SHOWN and LATEST are the values of `kept` and `arm`.
KEPT, SHOWN, ARM, LATEST, WHY, SCORE, TOKENS, PIECE, PARTS = (1 << bit for bit in range(9))

_FIELDS = {"id", "kept", "arm", "why", "score", "tokens", "piece", "arms"}


def pack(entries: Sequence[Mapping[str, Any]]) -> bytes:
    """Entries as bytes. Scores are rounded to UNIT, and parts of the formula that add nothing are left out."""
    try:
        numbers = [number for entry in entries for number in _numbers(entry)]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return json.dumps([dict(entry) for entry in entries], ensure_ascii=True, separators=(",", ":")).encode()
    # JSON begins with a bracket. Packed entries begin with a zero.
    return b"\0" + leb128.encode(numbers)


def unpack(packed: bytes) -> list[Json]:
    """The entries that pack() was given. Raises ValueError for bytes that it did not make."""
    if packed.startswith(JSON):
        entries = json.loads(packed)
        return entries if isinstance(entries, list) else [entries]
    if not packed.startswith(b"\0"):
        raise ValueError("they are no entries of a ledger")
    left = iter(leb128.decode(packed[1:]))
    try:
        return [_entry(has, left) for has in left]
    except StopIteration as error:
        raise ValueError("an entry of a ledger is cut short") from error


def only_considered(entries: Sequence[Mapping[str, Any]], shown: Sequence[int]) -> list[int]:
    """The ids that entries name besides those of the messages that were shown."""
    return [entry["id"] for entry in entries if entry["id"] not in shown]


def nearest(considered: Iterable[T], misses: int, is_shown: Callable[[T], bool]) -> list[T]:
    """What was shown of what was considered, and the first `misses` others, in their order."""
    found = []
    for each in considered:
        shown = is_shown(each)
        if not shown:
            misses -= 1
        if shown or misses >= 0:
            found.append(each)
    return found


def _numbers(entry: Mapping[str, Any]) -> list[int]:
    """Raises KeyError, TypeError, ValueError or AttributeError for an entry that numbers cannot hold."""
    if entry.keys() - _FIELDS:
        raise ValueError
    has, numbers = 0, [_natural(entry["id"])]
    if "kept" in entry:
        has |= KEPT | (SHOWN if _boolean(entry["kept"]) else 0)
    if "arm" in entry:
        has |= ARM | (LATEST if SOURCES.index(entry["arm"]) else 0)
    if "why" in entry:
        has |= WHY
        numbers.append(_PLACES[entry["why"]])
    if "score" in entry:
        has |= SCORE
        numbers.append(_zigzag(entry["score"]))
    if "tokens" in entry:
        has |= TOKENS
        numbers.append(_natural(entry["tokens"]))
    if "piece" in entry:
        start, end = entry["piece"]
        has |= PIECE
        numbers += [_natural(start), _natural(end - start)]
    if "arms" in entry:
        has |= PARTS
        numbers += _of_arms(entry["arms"])
    return [has, *numbers]


def _of_arms(arms: Mapping[str, Mapping[str, Any]]) -> list[int]:
    """A bit for each arm that adds something, then the rank (0 for none) and the share of each."""
    bits, numbers = 0, []
    for name, arm in arms.items():
        rank, share = arm["rank"], arm["score"]
        if rank is None and not share:
            continue
        bits |= 1 << _ARM_PLACES[name]
        numbers.append((_ARM_PLACES[name], 0 if rank is None else _natural(rank), _zigzag(share)))
    return [bits, *(number for _, rank, share in sorted(numbers) for number in (rank, share))]


def _entry(has: int, left: Iterator[int]) -> Json:
    """The next entry of those that are left. Raises StopIteration if it is cut short."""
    entry: Json = {"id": next(left)}
    if has & ARM:
        entry["arm"] = SOURCES[bool(has & LATEST)]
    if has & KEPT:
        entry["kept"] = bool(has & SHOWN)
    if has & WHY:
        entry["why"] = _WHYS[next(left)].value
    if has & SCORE:
        entry["score"] = _decimal(next(left))
    if has & TOKENS:
        entry["tokens"] = next(left)
    if has & PIECE:
        start = next(left)
        entry["piece"] = [start, start + next(left)]
    if has & PARTS:
        bits = next(left)
        entry["arms"] = {
            name: {"rank": next(left) or None, "score": _decimal(next(left))}
            for place, name in enumerate(ARMS)
            if bits >> place & 1
        }
    return entry


def _natural(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError
    return value


def _boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError
    return value


def _zigzag(value: Any) -> int:
    """A decimal number as a whole one: 0, -1, 1, -2, 2 ... of its last digit are 0, 1, 2, 3, 4 ..."""
    if type(value) not in (int, float):
        raise ValueError
    whole: int = round(value * UNIT)
    return 2 * whole if whole >= 0 else -2 * whole - 1


def _decimal(number: int) -> float:
    whole = -(number + 1) // 2 if number & 1 else number // 2
    return whole / UNIT


class PackedEntriesField(BinaryField):  # type: ignore[type-arg]  # generic in its stubs only
    """A list of entries: bytes in the database."""

    def from_db_value(self, value: bytes | None, *_: Any) -> list[Json]:
        return unpack(bytes(value)) if value else []

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        return super().get_db_prep_value(None if value is None else pack(value), connection, prepared)


class EntriesField(ArrayField):  # type: ignore[type-arg]
    """A list of entries, as earlier versions stored it: each on its own, in an array. Migrations name this class."""

    def __init__(self, **options: Any) -> None:
        super().__init__(BinaryField(), **options)

    def deconstruct(self) -> Any:
        name, path, args, options = super().deconstruct()
        options.pop("base_field", None)
        return name, path, args, options

    def from_db_value(self, value: Iterable[bytes] | None, *_: Any) -> list[Json]:
        return [entry for packed in value or () for entry in unpack(bytes(packed))]

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        return None if value is None else [pack([entry]) for entry in value]
