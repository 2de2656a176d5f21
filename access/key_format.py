"""Pure: how an access key is written.

    rsv_<kind>_<public id>_<secret>_<checksum>
    rsv_app_7Hq2mZc04LxT_9sWkV3nQ8rYbE5tGpA1dKj6uHfXzC0mB_2kP9aZ

Only letters, digits and underscores, so that a double click selects it whole. The checksum is the CRC-32 of what stands
before it, in base 62: it refuses typing errors, and lets a secret scanner tell a key from a look-alike. It proves
nothing else, since anyone can compute it.
"""

from __future__ import annotations

import re
import secrets
from typing import NamedTuple
from zlib import crc32

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ID_LENGTH, SECRET_LENGTH, CHECKSUM_LENGTH = 12, 32, 6
PATTERN = (
    rf"rsv_[a-z]{{2,8}}_[0-9A-Za-z]{{{ID_LENGTH}}}_[0-9A-Za-z]{{{SECRET_LENGTH}}}_[0-9A-Za-z]{{{CHECKSUM_LENGTH}}}"
)
"""The regular expression for secret scanners."""

_KEY = re.compile(PATTERN)
_KEY_BYTES = re.compile(PATTERN.encode())


class Key(NamedTuple):
    """A key: its text, which is secret, and its public id, which may be stored, shown and logged."""

    text: str
    public_id: str


def make(kind: str, public_id: str | None = None) -> Key:
    """A new key of a kind (2 to 8 lower-case letters), with the public id of an earlier one if given."""
    public_id = public_id or _random(ID_LENGTH)
    body = f"rsv_{kind}_{public_id}_{_random(SECRET_LENGTH)}"
    return Key(f"{body}_{_checksum(body)}", public_id)


def parse(text: str) -> Key | None:
    """The key that a text is, or None if it is none or its checksum is wrong."""
    if not _KEY.fullmatch(text):
        return None
    body, _, checksum = text.rpartition("_")
    return Key(text, body.split("_")[2]) if checksum == _checksum(body) else None


def holds_key(value: bytes) -> bool:
    """Whether something that looks like a key stands anywhere in the bytes."""
    return b"rsv_" in value and _KEY_BYTES.search(value) is not None


def _random(length: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(length))


def _checksum(body: str) -> str:
    number, digits = crc32(body.encode()), ""
    for _ in range(CHECKSUM_LENGTH):
        number, digit = divmod(number, len(ALPHABET))
        digits = ALPHABET[digit] + digits
    return digits
