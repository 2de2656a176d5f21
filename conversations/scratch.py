"""Scratch partitions: for measuring, apart from real conversations, and removed afterwards."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from conversations.locks import held
from conversations.models import Embedding, Partition
from conversations.querysets import SCRATCH

LOCKS = 0x5265_7363  # the first key of our advisory locks


@contextmanager
def scratch_partition() -> Iterator[str]:
    """The name of a partition for this process only; it is removed with its contents at the end.

    Removes the leftovers of killed processes first. A living process holds a lock, which PostgreSQL releases with the
    connection.
    """
    remove_leftovers()
    name = f"{SCRATCH}{uuid.uuid4().hex}"
    with held(LOCKS, name):
        try:
            yield name
        finally:
            _remove(name)


def remove_leftovers() -> int:
    """Remove the scratch partitions of dead processes. Returns their number."""
    removed = 0
    for name in Partition.objects.filter(name__regex=f"^{SCRATCH}[0-9a-f]{{32}}$").values_list("name", flat=True):
        with held(LOCKS, name) as is_left_over:
            if is_left_over:
                _remove(name)
                removed += 1
    return removed


def _remove(name: str) -> None:
    Embedding.objects.filter(instance__partition__name=name).delete()
    Partition.objects.filter(name=name).delete()
