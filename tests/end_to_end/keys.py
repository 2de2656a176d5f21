"""Access keys for a running server, written into its database as `manage.py key create` would."""

from __future__ import annotations

import hmac
import uuid
from collections.abc import Sequence

from access.key_format import make
from access.rights import Right
from tests.end_to_end.store import execute
from tests.server import Server

ROW = """
INSERT INTO access_accesskey (public_id, kind, digest, pepper_id, name, owner, rights, partitions, instances, expires,
    revoked, created)
VALUES (%s, 'app', %s, %s, %s, '', %s, %s, %s, now() + %s::interval,
    CASE WHEN %s THEN now() END, now())
"""


def make_key(
    server: Server,
    partitions: Sequence[str],
    instances: Sequence[str] = ("*",),
    rights: Sequence[Right] = tuple(Right),
    *,
    lives: str | None = None,
    revoked: bool = False,
) -> str:
    """A new key. `lives` is an interval from now, negative for a key that has expired."""
    key = make("app")
    pepper = (server.home / "key_pepper").read_bytes()
    digest = hmac.digest(pepper, key.text.encode(), "sha256")
    pepper_id = hmac.digest(pepper, b"pepper id", "sha256").hex()[:8]
    names = [right.value for right in rights]
    values = (names, list(partitions), list(instances), lives, revoked)
    execute(server, ROW, key.public_id, digest, pepper_id, f"key {uuid.uuid4().hex[:8]}", *values)
    return key.text


def revoke(server: Server, key: str) -> None:
    """Revoke a key in the database alone: the server is not told."""
    execute(server, "UPDATE access_accesskey SET revoked = now() WHERE public_id = %s", key.split("_")[2])
