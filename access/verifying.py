"""Reading keys for the server: what it needs of one to admit a request. Everything here blocks."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from django.conf import settings
from django.db.models import Q
from django.utils import timezone

from access.credentials import opened
from access.digests import digest, pepper_id, same
from access.limits import NO_LIMITS, Limits
from access.models import AccessKey
from access.rights import Right
from conversations.reach import Reach

FRESH_SECONDS = 4.0  # for which a server uses what it has read of a key: revoking takes effect within it
OUTAGE_SECONDS = 3600.0  # for which it goes on using that while the database does not answer
USE_SECONDS = 60.0  # between two writes of a key's last use


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A key as the database has it. Times are seconds since 1970."""

    public_id: str
    name: str
    digests: tuple[tuple[bytes, float], ...]  # each with the end of its life
    rights: frozenset[Right]
    reach: Reach
    limits: Limits = NO_LIMITS
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)  # by provider, in clear

    def accepts(self, text: str) -> bool:
        """Whether this text is the key, and has not expired."""
        made, now = digest(text), time.time()
        return any(same(made, stored) and now < end for stored, end in self.digests)


def look_up(public_id: str) -> KnownKey | None:
    """The key with this id, None if there is none or it is revoked.

    Raises django.db.Error, and CredentialProblem for a credential of its own that cannot be read.
    """
    row = AccessKey.objects.filter(public_id=public_id, revoked__isnull=True).first()
    if row is None:
        return None
    end = row.expires.timestamp() if row.expires else float("inf")
    digests = [(bytes(row.digest), end)]
    if row.previous_digest and row.previous_until:
        digests.append((bytes(row.previous_digest), min(end, row.previous_until.timestamp())))
    return KnownKey(
        public_id=row.public_id,
        name=row.name,
        digests=tuple(digests),
        rights=frozenset(map(Right, row.rights)),
        reach=Reach.of(row.partitions, row.instances),
        limits=row.limits,
        credentials={each.provider: opened(each) for each in row.credentials.all()},
    )


def keys_exist() -> bool:
    """Whether a key was ever made, also one that expired. Leaves a mark on the disk. Raises django.db.Error."""
    exist = AccessKey.objects.exists()
    with suppress(OSError):
        _mark().touch() if exist else _mark().unlink(missing_ok=True)
    return exist


def keys_existed() -> bool:
    """The same, as last read on this machine: a process that starts while the database is down opens no door."""
    return _mark().exists()


def _mark() -> Path:
    return Path(settings.RESERVOIR_HOME) / "keys_exist"


def made_with_another_pepper() -> str | None:
    """The name of a live key that this server cannot check, None if there is none. Raises django.db.Error."""
    live = Q(expires__isnull=True) | Q(expires__gt=timezone.now())
    rows = AccessKey.objects.filter(live, revoked__isnull=True).exclude(pepper_id=pepper_id())
    return rows.values_list("name", flat=True).first()


def note_use(used: Collection[tuple[str, float]]) -> None:
    """Write when keys were last used: pairs of public id and seconds since 1970. Raises django.db.Error."""
    for public_id, moment in used:
        AccessKey.objects.filter(public_id=public_id).update(last_used=datetime.fromtimestamp(moment, UTC))
