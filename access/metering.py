"""What keys and partitions use, in PostgreSQL, so that all workers and hosts share one count. Everything here blocks.

A subject is `key:<public id>` or `partition:<name>`. Requests are taken before they are used, in batches, and never
exceed their limit. Tokens and dollars are known after the answer: what runs when a limit is reached still counts.
Parallel requests are leases, which end by themselves when a process dies. Every window begins by the database's clock.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from decimal import Decimal
from typing import NamedTuple

from django.db import connection, transaction

from access.limits import Kind, Limits
from access.models import PartitionLimit

LEASE_SECONDS = 30  # after which the slots of a process that died are free again


class Taken(NamedTuple):
    """How many were granted, the seconds until the window ends, and how many are left in it to all."""

    granted: int
    seconds: float
    left: int


class Used(NamedTuple):
    """What a subject has used in the present minute and month, and the seconds until each ends."""

    tokens: int
    dollars: Decimal
    minute_seconds: float
    month_seconds: float


def take_requests(subject: str, *, limit: int, wanted: int) -> Taken:
    """Take up to `wanted` of the present minute's requests. Raises django.db.Error."""
    with connection.cursor() as cursor:
        cursor.execute(TAKE, {"subject": subject, "limit": limit, "wanted": wanted})
        row = cursor.fetchone()
        if row is None:
            cursor.execute("SELECT 60 - extract(second FROM now())")
            (seconds,) = cursor.fetchone() or (60,)
            return Taken(0, float(seconds), 0)
    used, seconds = row
    return Taken(max(0, wanted - max(0, int(used) - limit)), float(seconds), max(0, limit - int(used)))


def spend(subject: str, tokens: int, dollars: Decimal) -> Used:
    """Add what answers have cost; zeros only read. Raises django.db.Error."""
    with connection.cursor() as cursor:
        cursor.execute(SPEND, {"subject": subject, "tokens": tokens, "dollars": dollars})
        used = {kind: (amount, float(seconds)) for kind, amount, seconds in cursor.fetchall()}
    (in_minute, minute), (in_month, month) = used[Kind.TOKENS], used[Kind.DOLLARS]
    return Used(int(in_minute), in_month, minute, month)


@transaction.atomic
def lease(subject: str, holder: uuid.UUID, *, slots: int, limit: int) -> bool:
    """Have `holder` hold this many slots, if all holders together then hold at most `limit`. Raises django.db.Error."""
    with connection.cursor() as cursor:
        # One at a time, and in a statement before: the next one's snapshot then shows what the last one has leased.
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 7))", [subject])
        cursor.execute(LEASE, {"subject": subject, "holder": holder, "slots": slots, "limit": limit})
        return bool(cursor.rowcount > 0)


def keep(holder: uuid.UUID, slots: Mapping[str, int]) -> None:
    """Renew the leases of a holder with as many slots as it uses; 0 gives them back. Raises django.db.Error."""
    with connection.cursor() as cursor:
        for subject, number in slots.items():
            cursor.execute(KEEP, {"subject": subject, "holder": holder, "slots": number, "seconds": LEASE_SECONDS})


def tidy() -> None:
    """Delete leases that have ended, and minutes that have passed. Raises django.db.Error."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM access_lease WHERE expires < now() OR slots = 0")
        cursor.execute(
            "DELETE FROM access_meter WHERE kind <> %s AND starts < now() - interval '1 hour'", [Kind.DOLLARS]
        )


def partition_limits() -> dict[str, Limits]:
    """The limits of partitions, by name. Raises django.db.Error."""
    return {row.partition: row.limits for row in PartitionLimit.objects.all()}


TAKE = """
INSERT INTO access_meter AS meter (subject, kind, starts, used)
VALUES (%(subject)s, 'requests', date_trunc('minute', now()), %(wanted)s)
ON CONFLICT (subject, kind, starts) DO UPDATE SET used = meter.used + %(wanted)s WHERE meter.used < %(limit)s
RETURNING used, extract(epoch FROM starts + interval '1 minute' - now())
"""

SPEND = """
INSERT INTO access_meter AS meter (subject, kind, starts, used) VALUES
    (%(subject)s, 'tokens', date_trunc('minute', now()), %(tokens)s),
    (%(subject)s, 'dollars', date_trunc('month', now(), 'UTC'), %(dollars)s)
ON CONFLICT (subject, kind, starts) DO UPDATE SET used = meter.used + excluded.used
RETURNING kind, used, extract(epoch FROM
    starts + CASE kind WHEN 'tokens' THEN interval '1 minute' ELSE interval '1 month' END - now())
"""

LEASE = """
INSERT INTO access_lease AS lease (subject, holder, slots, expires)
SELECT %(subject)s, %(holder)s, %(slots)s, now() + interval '30 seconds'
WHERE %(slots)s + (
    SELECT coalesce(sum(slots), 0) FROM access_lease
    WHERE subject = %(subject)s AND holder <> %(holder)s AND expires > now()
) <= %(limit)s
ON CONFLICT (subject, holder) DO UPDATE SET slots = excluded.slots, expires = excluded.expires
"""

KEEP = """
UPDATE access_lease SET slots = %(slots)s, expires = now() + make_interval(secs => %(seconds)s)
WHERE subject = %(subject)s AND holder = %(holder)s
"""
