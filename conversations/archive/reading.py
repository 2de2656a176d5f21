"""Import, first half: reads a file and validates it line by line, before anything is stored."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import IO, Any, Protocol

from conversations.archive.fields import EXCHANGE, LEDGER, MESSAGE, NAMESPACE, checked
from conversations.archive.json_stream import Broken, values
from conversations.querysets import Scope
from conversations.turns import NAME_LENGTH, ROLE_LENGTH, UNSTORABLE, Json, Turn, whole_text

EARLIEST = datetime(1980, 1, 1, tzinfo=UTC)  # seconds mistaken for milliseconds are in 1970
DIMENSIONS = 16_000  # of the longest vector that PostgreSQL's halfvec holds
LARGEST = 65_504  # the largest number in such a vector
CONTROLS = frozenset(map(chr, (*range(32), *range(127, 160))))


class BadLine(ValueError):
    """A line that is not imported; `line` counts from 1. The error never quotes the line."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line = line


@dataclass(frozen=True, slots=True)
class Piece:
    """The vector of a part of a message."""

    model: str
    start: int
    end: int
    vector: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Said:
    """A message. `source` and `parent` are ids within the file."""

    uid: uuid.UUID
    source: int | None
    parent: int | None
    turn: Turn
    fields: Json  # of the model, including `created`
    pieces: tuple[Piece, ...] = ()


@dataclass(frozen=True, slots=True)
class Item:
    """A valid line: a message, an exchange, or both.

    `exchange` has fields of the model. `references` has those that refer to messages, if the line includes them.
    """

    line: int
    scope: Scope
    trace_id: uuid.UUID
    exchange: Json | None
    references: Json | None = None
    ledger: Json | None = None
    said: Said | None = field(default=None)
    # A conversation of another program: it stays in the instance that has its first message, whatever its title is now.
    follows: bool = False


class OtherReader(Protocol):
    """Reads what other programs export."""

    def reads(self, value: Any) -> bool:
        """Whether a value of the file is a conversation of one of them."""

    def read(self, line: int, value: Any) -> Iterator[Item | BadLine]:
        """Its messages."""


def read(stream: IO[bytes], other: OtherReader | None = None) -> Iterator[Item | BadLine]:
    """Read an export as JSON Lines, one array or one object: ours, the original Reservoir's, or what `other` reads.

    A file of any size takes no more memory than its largest object.
    """
    for line, value in values(stream):
        if isinstance(value, Broken):
            yield BadLine(line, value.reason)
            continue
        if other and other.reads(value):
            yield from other.read(line, value)
            continue
        try:
            yield _item(line, value)
        except ValueError as error:
            yield BadLine(line, str(error))


def _item(line: int, value: Any) -> Item:
    if not isinstance(value, dict):
        raise ValueError("it is not an object")
    scope = Scope(scope_name(value, "partition"), scope_name(value, "instance"))
    trace_id = _uuid(value, "trace_id")
    moment = _moment(value)
    said = _said(value, trace_id, moment) if "role" in value or "content" in value else None
    if "exchange" not in value:  # the original Reservoir's form
        if said is None:
            raise ValueError("role is missing")
        answered = {"created": moment, "finished": moment, "ended": "answered"}
        return Item(line, scope, trace_id, answered, said=said)
    given = value["exchange"]
    if given is None:
        if said is None:
            raise ValueError("it has neither a message nor an exchange")
        return Item(line, scope, trace_id, None, said=said)
    if not isinstance(given, dict):
        raise ValueError("exchange is not an object")
    fields = checked(EXCHANGE, given, "exchange.")
    if "created" not in fields:
        raise ValueError("exchange.created is missing")
    if not all(map(_is_number, fields.get("timings", {}).values())):
        raise ValueError("exchange.timings are not numbers")
    if not all(map(_is_prompt, fields.get("prompts", []))):
        raise ValueError("exchange.prompts are not pairs of a position and a text")
    references, ledger = None, None
    if "request_ids" in given:
        question = given.get("question")
        if question is not None and not _is_id(question):
            raise ValueError("exchange.question is not a message id")
        references = {"request_ids": fields.pop("request_ids"), "question": question}
        ledger = None if given.get("ledger") is None else _ledger(given["ledger"])
    return Item(line, scope, trace_id, fields, references, ledger, said)


def _said(value: Json, trace_id: uuid.UUID, moment: datetime) -> Said:
    role, content = value.get("role"), value.get("content")
    if not isinstance(role, str) or not role.strip() or len(role) > ROLE_LENGTH or UNSTORABLE.search(role):
        raise ValueError("role is missing or invalid")
    if content is not None and not isinstance(content, str):
        raise ValueError("content is not a text")
    made = _turn(value, role, content)
    made_of_payload = ("role", "name", "content", "payload")
    fields = checked({name: f for name, f in MESSAGE.items() if name not in made_of_payload}, value, "")
    parent, source = value.get("parent"), value.get("id")
    if not all(number is None or _is_id(number) for number in (parent, source)):
        raise ValueError("id or parent is not a message id")
    if "uid" in value:
        who = _uuid(value, "uid")
    else:
        who = uuid.uuid5(NAMESPACE, json.dumps([str(trace_id), role, value.get("timestamp"), content]))
    return Said(who, source, parent, made, fields | {"created": moment}, _pieces(value, len(made.content)))


def _turn(value: Json, role: str, content: str | None) -> Turn:
    if "payload" not in value:
        payload: Any = {"role": role, "content": content or ""}
        return Turn.from_payload(json.dumps(payload), payload)
    raw = value["payload"]
    if not isinstance(raw, str) or UNSTORABLE.search(raw):
        raise ValueError("payload is not a text that can be stored")
    try:
        payload = json.loads(raw)
    except (ValueError, RecursionError):
        raise ValueError("payload is not the JSON text of a message") from None
    if not isinstance(payload, dict):
        raise ValueError("payload is not the JSON text of a message")
    made = Turn.from_payload(raw, payload)
    if made.role != role or not (made.content == (content or "") or _is_part(content or "", whole_text(payload))):
        raise ValueError("payload contradicts role and content")
    return made


def _is_part(content: str, whole: str) -> bool:
    """Whether the content may be the whole text without what coding tools wrote, by tags that are not known here."""
    return bool(content) and all(line in whole for line in content.splitlines())


def _ledger(given: Any) -> Json:
    if not isinstance(given, dict):
        raise ValueError("exchange.ledger is not an object")
    fields = checked(LEDGER, given, "exchange.ledger.")
    try:
        key, rendering = (bytes.fromhex(given.get(name, "")) for name in ("key", "rendering"))
    except (TypeError, ValueError):
        key = rendering = b""
    if len(key) != 16 or fields.keys() != LEDGER.keys():
        raise ValueError("exchange.ledger is incomplete")
    if not all(isinstance(entry, dict) and _is_id(entry.get("id")) for entry in fields["candidates"]):
        raise ValueError("exchange.ledger.candidates is invalid")
    if not all(isinstance(text, str) for text in fields["injected"]):
        raise ValueError("exchange.ledger.injected is invalid")
    return fields | {"key": key, "rendering": rendering}


def _pieces(value: Json, length: int) -> tuple[Piece, ...]:
    """The vectors that name their model. The original Reservoir's do not, so those messages are embedded again."""
    given = value.get("embeddings") or []
    if not isinstance(given, list) or not all(isinstance(piece, dict) for piece in given):
        raise ValueError("embeddings is invalid")
    found = []
    for piece in given:
        vector = piece.get("vector", value.get("embedding"))
        model, start, end = piece.get("model"), piece.get("start"), piece.get("end")
        if not isinstance(model, str) or not model or UNSTORABLE.search(model):
            raise ValueError("an embedding does not name its model")
        if not (_is_id(start) and _is_id(end) and 0 <= start <= end <= length):
            raise ValueError("an embedding is outside its message")
        if not isinstance(vector, list) or not 0 < len(vector) <= DIMENSIONS or not all(map(_fits, vector)):
            raise ValueError("an embedding is not a list of numbers that can be stored")
        found.append(Piece(model, start, end, tuple(vector)))
    if len({(piece.model, piece.start) for piece in found}) < len(found):
        raise ValueError("two embeddings are for the same part of the message")
    return tuple(found)


def _fits(number: Any) -> bool:
    return isinstance(number, int | float) and math.isfinite(number) and abs(number) <= LARGEST


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_prompt(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and _is_id(value[0]) and isinstance(value[1], str)


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def scope_name(value: Json, what: str) -> str:
    """The name of a partition or an instance. Raises ValueError for one that a scope cannot have."""
    name = value.get(what)
    if not isinstance(name, str) or not name.strip() or len(name) > NAME_LENGTH:
        raise ValueError(f"{what} is not a name of 1 to {NAME_LENGTH} characters")
    if CONTROLS.intersection(name) or UNSTORABLE.search(name):
        raise ValueError(f"{what} contains control characters")
    return name


def _uuid(value: Json, what: str) -> uuid.UUID:
    try:
        return uuid.UUID(value.get(what))
    except (ValueError, TypeError, AttributeError):
        raise ValueError(f"{what} is not a UUID") from None


def _moment(value: Json) -> datetime:
    """The message's time: `created`, which is exact, or else `timestamp`."""
    created, milliseconds = value.get("created"), value.get("timestamp")
    try:
        if created is not None:
            moment = datetime.fromisoformat(created)
        elif isinstance(milliseconds, bool) or not isinstance(milliseconds, int | float):
            raise ValueError
        else:
            moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
        if moment.tzinfo is None:
            raise ValueError
        moment = moment.astimezone(UTC)
    except (ValueError, TypeError, OverflowError, OSError):
        raise ValueError("timestamp is not a number of milliseconds since 1970") from None
    # A message from the future would impose its time on all later ones.
    if created is None and not EARLIEST <= moment <= datetime.now(UTC) + timedelta(days=1):
        raise ValueError(f"its timestamp is in the year {moment.year}: timestamps are milliseconds since 1970")
    return moment
