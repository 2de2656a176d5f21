"""Pure: whole numbers in as few bytes as each needs (LEB128, https://en.wikipedia.org/wiki/LEB128)."""

from __future__ import annotations

from collections.abc import Iterable

_SHORT = [bytes([number]) for number in range(128)]


def encode(numbers: Iterable[int]) -> bytes:
    """Numbers of 0 and more: seven bits a byte, the lowest first; each byte but a number's last has the highest bit."""
    return b"".join(_SHORT[number] if number < 128 else _long(number) for number in numbers)


def decode(data: bytes) -> list[int]:
    """The numbers that encode() was given. Bytes of an unfinished number at the end are ignored."""
    found, number, shift = [], 0, 0
    for byte in data:
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            found.append(number)
            number = shift = 0
    return found


def _long(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)
