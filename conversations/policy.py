"""What is remembered of a partition's requests, as its page in the admin says."""

from __future__ import annotations

import time

from conversations.models import Partition
from conversations.states import Remember

SECONDS = 5.0  # for which a process uses what it has read: requests come by the thousand
MOST = 1_000  # partitions

_known: dict[str, tuple[float, str]] = {}  # by name: until when, and the value


def rules_act(partition: str) -> bool:
    """Whether rules decide which requests are remembered. Blocks unless `is_known`. Raises django.db.Error."""
    return _remembered(partition) != Remember.ALL


def is_stored(partition: str) -> bool:
    """Whether anything of its requests is stored. Blocks unless `is_known`. Raises django.db.Error."""
    return _remembered(partition) != Remember.NOTHING


def is_known(partition: str) -> bool:
    """Whether the answers come without a query."""
    return partition in _known and _known[partition][0] > time.monotonic()


def read_again() -> None:
    """Drop what this process has read."""
    _known.clear()


def _remembered(partition: str) -> str:
    """A value of Remember; the default for a partition that does not exist."""
    now = time.monotonic()
    if (fresh := _known.get(partition)) and fresh[0] > now:
        return fresh[1]
    value = Partition.objects.filter(name=partition).values_list("remember", flat=True).first()
    if len(_known) >= MOST:
        _known.clear()
    found = value or Remember.PEOPLE.value
    _known[partition] = (now + SECONDS, found)
    return found
