"""Exchange -> bytes and back: the format of a record of the spool. Pure.

A record is

    magic 4 | state 1 | 0 0 0 | length 4 | sequence 8 | scope 8 | exchange 8 | checksums of payload 4 and header 4

and then its payload, JSON in ASCII. The magic cannot occur in the payload, so the record after a damaged one can be
found. Once a record is stored in the database, its state says so, and zeros overwrite its payload.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import IntEnum
from typing import Any, NamedTuple
from uuid import UUID

from conversations.actions import Answered, Asked, Ledger
from conversations.querysets import Scope
from conversations.turns import Turn

MAGIC = b"\x9fRSV"
HEADER = struct.Struct("<4sB3xIQ8s8sII")
CHECKED = struct.Struct("<IQ8s8sI")  # the fields that the header's checksum covers
STATE_AT = 4
BYTES = ("key", "rendering")  # fields of a ledger, written as hexadecimal digits


class State(IntEnum):
    """Four bits apart, so that one flipped bit cannot turn one into the other."""

    PENDING = 0x00
    STORED = 0x0F  # the payload is zeros


class Entry(NamedTuple):
    """The content of a record: a question or an answer.

    An answer brings its question along, unless the question was stored before (`opened`): then `asked` only identifies
    the exchange.
    """

    asked: Asked
    answered: Answered | None = None
    opened: bool = False


@dataclass(frozen=True, slots=True)
class Header:
    """A header with a valid checksum."""

    length: int  # of the payload in bytes
    sequence: int
    scope: bytes
    exchange: bytes
    checksum: int  # of the payload
    state: int


def scope_mark(scope: Scope) -> bytes:
    """8 bytes that identify a scope."""
    return hashlib.blake2b("\0".join(scope).encode(), digest_size=8).digest()


def exchange_mark(trace_id: UUID) -> bytes:
    """8 bytes that identify an exchange."""
    return trace_id.bytes[:8]


def encode(entry: Entry) -> bytes:
    """The payload of a record."""
    asked, answered, opened = entry
    told: dict[str, Any] = {
        "asked": {
            **_fields(asked),
            "trace_id": str(asked.trace_id),
            "created": asked.created.isoformat(),
            "served_by": asked.served_by and str(asked.served_by),
            "turns": [turn.payload for turn in asked.turns],
            "ledger": asked.ledger
            and _fields(asked.ledger) | {name: getattr(asked.ledger, name).hex() for name in BYTES},
        }
    }
    if answered:
        told["opened"] = opened
        told["answered"] = {
            **_fields(answered),
            "finished": answered.finished.isoformat(),
            "turns": [turn.payload for turn in answered.turns],
            "cost": None if answered.cost is None else str(answered.cost),
        }
    return json.dumps(told, ensure_ascii=True, separators=(",", ":")).encode("ascii")


def decode(payload: bytes) -> Entry:
    """Raises ValueError, KeyError, TypeError or AttributeError for bytes that `encode` did not make."""
    told = json.loads(payload)
    asked, answered, ledger = told["asked"], told.get("answered"), told["asked"]["ledger"]
    asked |= {
        "trace_id": UUID(asked["trace_id"]),
        "scope": Scope(*asked["scope"]),
        "created": datetime.fromisoformat(asked["created"]),
        "turns": tuple(_turn(raw) for raw in asked["turns"]),
        "left_out": tuple(asked.get("left_out", ())),
        "prompts": tuple((at, raw) for at, raw in asked["prompts"]),
        "ledger": None,
        "served_by": UUID(asked["served_by"]) if asked.get("served_by") else None,
    }
    if ledger:
        texts = {name: tuple(ledger[name]) for name in ("candidates", "injected", "message_ids")}
        bytes_ = {name: bytes.fromhex(ledger.get(name, "")) for name in BYTES}
        asked["ledger"] = Ledger(**ledger | texts | bytes_)
    if answered:
        answered |= {
            "finished": datetime.fromisoformat(answered["finished"]),
            "turns": tuple(_turn(raw) for raw in answered["turns"]),
            "cost": None if answered["cost"] is None else Decimal(answered["cost"]),
        }
    answer = Answered(**_known(Answered, answered)) if answered else None
    return Entry(Asked(**_known(Asked, asked)), answer, told.get("opened", False))


def _known(kind: Any, told: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that this version has: the next one may have written the record."""
    return {field.name: told[field.name] for field in dataclasses.fields(kind) if field.name in told}


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _of_ledger(ledger: Ledger) -> dict[str, Any]:
    return _fields(ledger) | {name: getattr(ledger, name).hex() for name in BYTES}


def _turn(raw: str) -> Turn:
    return Turn.from_payload(raw, json.loads(raw))


def frame(payload: bytes, *, sequence: int, scope: bytes, exchange: bytes) -> bytes:
    """A whole record: header and payload. `scope` and `exchange` are their marks."""
    parts = (len(payload), sequence, scope, exchange, zlib.crc32(payload))
    return HEADER.pack(MAGIC, State.PENDING, *parts, zlib.crc32(CHECKED.pack(*parts))) + payload


def read_header(data: bytes) -> Header | None:
    """The header that the bytes begin with, None if they are too few or damaged."""
    if len(data) < HEADER.size:
        return None
    magic, state, length, sequence, scope, exchange, checksum, own = HEADER.unpack(data)
    if magic != MAGIC or zlib.crc32(CHECKED.pack(length, sequence, scope, exchange, checksum)) != own:
        return None
    return Header(length, sequence, scope, exchange, checksum, state)
