"""The spool's pending records in the order in which to store them."""

from __future__ import annotations

from collections.abc import Callable

from proxy.spool.record import Entry, State
from proxy.spool.segments import Found, records

Located = tuple[str, Found]  # the segment's name, and the record in it


class Tail:
    """Returns the pending records exchange by exchange, those added meanwhile included.

    `segments` maps names to file descriptors; `open_new` adds the segments begun since the last call.
    """

    def __init__(self, segments: dict[str, int], open_new: Callable[[], None]) -> None:
        self._segments = segments
        self._open_new = open_new
        self._read: dict[str, int] = {}  # segment -> offset
        self._pending: dict[bytes, dict[bytes, list[Located]]] = {}  # scope -> exchange -> its records
        self._scope = b""
        self._read_new()

    def next_exchange(self) -> list[Located]:
        """The records of one exchange; empty when none is pending.

        A question and its answer come together: storing both at once is half the work.
        """
        if not self._pending.get(self._scope):
            self._read_new()
            self._pending = {scope: exchanges for scope, exchanges in self._pending.items() if exchanges}
            if self._scope not in self._pending:
                self._scope = next(iter(self._pending), b"")
        exchanges = self._pending.get(self._scope)
        return exchanges.pop(next(iter(exchanges))) if exchanges else []

    def _read_new(self) -> None:
        """Add all new records.

        Segments are read one after the other. Meanwhile a record may be added to a segment already read, or to a new
        one, and the record after it to a segment not yet read. So all are read again until none brings anything new.
        """
        new: list[tuple[int, str, Found]] = []
        while found := self._unread():
            new += [(record.sequence, name, record) for name, record in found if record.state != State.STORED]
        for _, name, record in sorted(new, key=lambda item: (item[0], item[1], item[2].offset)):
            self._pending.setdefault(record.scope, {}).setdefault(record.exchange, []).append((name, record))

    def _unread(self) -> list[Located]:
        self._open_new()
        found = []
        for name, segment in self._segments.items():
            for record in records(segment, self._read.get(name, 0), payloads=False):
                self._read[name] = record.end
                found.append((name, record))
        return found


def joined(entries: list[Entry]) -> list[Entry]:
    """A question followed by its answer as one entry; any other entries unchanged."""
    if len(entries) == 2 and not entries[0].answered and entries[1].answered:
        return [Entry(entries[0].asked, entries[1].answered)]
    return entries
