"""What waits in the segments of the spool, handed out exchange by exchange, and looked for as it is added."""

from __future__ import annotations

from collections.abc import Callable

from proxy.spool.segments import Entry, Found, State, records


class Tail:
    """The records that wait in the segments, handed out exchange by exchange, and looked for as they are added.

    `open_new` adds the segments that have been begun since.
    """

    def __init__(self, segments: dict[str, int], open_new: Callable[[], None]) -> None:
        self._segments = segments
        self._open_new = open_new
        self._read: dict[str, int] = {}
        self._waiting: dict[bytes, dict[bytes, list[tuple[str, Found]]]] = {}  # scope -> exchange -> its records
        self._scope = b""
        self._look()

    def next_exchange(self) -> list[tuple[str, Found]]:
        """The records of one exchange, with their segments; empty when nothing waits.

        A question and its answer come together: storing them at once is half the work.
        """
        if not self._waiting.get(self._scope):
            self._look()
            self._waiting = {scope: exchanges for scope, exchanges in self._waiting.items() if exchanges}
            if self._scope not in self._waiting:
                self._scope = next(iter(self._waiting), b"")
        exchanges = self._waiting.get(self._scope)
        return exchanges.pop(next(iter(exchanges))) if exchanges else []

    def _look(self) -> None:
        """Add all that is new.

        While segments are looked at one after the other, a record may be written into one that has been looked at, or
        into a new one, and the record that follows it into one that has not. So it goes on until there is nothing new.
        """
        new: list[tuple[int, str, Found]] = []
        while found := self._unread():
            new += [(record.sequence, name, record) for name, record in found if record.state != State.STORED]
        for _, name, record in sorted(new, key=lambda item: (item[0], item[1], item[2].offset)):
            self._waiting.setdefault(record.scope, {}).setdefault(record.exchange, []).append((name, record))

    def _unread(self) -> list[tuple[str, Found]]:
        self._open_new()
        found = []
        for name, segment in self._segments.items():
            for record in records(segment, self._read.get(name, 0), payloads=False):
                self._read[name] = record.end
                found.append((name, record))
        return found


def joined(entries: list[Entry]) -> list[Entry]:
    """A question and its answer, kept one after the other, as one entry; all else as it is."""
    if len(entries) == 2 and not entries[0].answered and entries[1].answered:
        return [Entry(entries[0].asked, entries[1].answered)]
    return entries
