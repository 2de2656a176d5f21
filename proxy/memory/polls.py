"""Which questions a process has seen so often that the database is asked whether they are polls."""

from __future__ import annotations

from collections import OrderedDict

from conversations.querysets import Scope

SUSPICIOUS = 3  # times; a question that is asked less often here costs no query
MOST = 10_000  # questions


class Seen:
    """Counts questions, the latest ones."""

    def __init__(self) -> None:
        self._times: OrderedDict[tuple[Scope, bytes], int] = OrderedDict()

    def again(self, scope: Scope, digest: bytes) -> int:
        """How often the question has come, this time included."""
        key = (scope, digest)
        self._times[key] = times = self._times.pop(key, 0) + 1
        if len(self._times) > MOST:
            self._times.popitem(last=False)
        return times
