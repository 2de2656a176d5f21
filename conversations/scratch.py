"""Scratch scopes: for measuring, apart from everybody's conversations, and gone afterwards."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection

from conversations.models import Embedding, Partition
from conversations.querysets import SCRATCH

LOCKS = 0x5265_7363  # the class of our advisory locks


@contextmanager
def scratch_partition() -> Iterator[str]:
    """The name of a partition that is this process's own, and removed at the end with all that is in it.

    What an earlier process left behind, because it was killed, is removed first: whoever lives holds a lock, which
    PostgreSQL drops with the connection.
    """
    remove_leftovers()
    name = f"{SCRATCH}{uuid.uuid4().hex}"
    _lock(name)
    try:
        yield name
    finally:
        _remove(name)
        _unlock(name)


def remove_leftovers() -> int:
    """Remove scratch partitions whose process is gone. Returns how many."""
    removed = 0
    for name in Partition.objects.filter(name__regex=f"^{SCRATCH}[0-9a-f]{{32}}$").values_list("name", flat=True):
        if _lock(name):
            _remove(name)
            _unlock(name)
            removed += 1
    return removed


def _remove(name: str) -> None:
    Embedding.objects.filter(instance__partition__name=name).delete()
    Partition.objects.filter(name=name).delete()


def _lock(name: str) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s, hashtext(%s))", [LOCKS, name])
        (locked,) = cursor.fetchone() or (False,)
        return bool(locked)


def _unlock(name: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_unlock(%s, hashtext(%s))", [LOCKS, name])
