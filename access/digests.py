"""What is stored of a key instead of the key: its HMAC-SHA-256 under a pepper, which is not in the database."""

from __future__ import annotations

import hmac

from django.conf import settings


def digest(key: str) -> bytes:
    """32 bytes. A key has 190 random bits, so a fast function is enough: there is nothing to guess."""
    return hmac.digest(settings.RESERVOIR_KEY_PEPPER.encode(), key.encode(), "sha256")


def same(one: bytes, other: bytes) -> bool:
    """Compared in constant time."""
    return hmac.compare_digest(one, other)


def pepper_id() -> str:
    """Tells peppers apart, so that a server with a wrong one says so instead of refusing every key."""
    return hmac.digest(settings.RESERVOIR_KEY_PEPPER.encode(), b"pepper id", "sha256").hex()[:8]
