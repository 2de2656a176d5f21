"""The copy of a streamed answer: its frames split into events, the events added up. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from proxy.answer.frames import Frames, IsLast
from proxy.errors import ReservoirError
from proxy.prompt.chat import Reply


class Sum(Protocol):
    """What the events of one streamed answer add up to: at most room.COPY_LIMIT bytes of text.

    `malformed` counts the events that it lacks: those that were not a JSON object or were too large.
    """

    malformed: int

    @property
    def truncated(self) -> bool:
        """Whether the answer was longer than the sum may grow."""

    def add(self, data: bytes | None) -> None:
        """Add the data of one event; None stands for an event that was too large to keep."""

    def reply(self, *, done: bool) -> Reply:
        """The answer so far. `done` says that the terminal event has arrived."""


class StreamCopy:
    """One streamed answer on its way through: its bytes are relayed, a copy is added up.

    `feed` returns the bytes to relay now; see Frames for the bytes that it holds back, so that the answer can be
    stored before the client learns that it is complete. The copy keeps at most room.COPY_LIMIT bytes of text
    and no single event over frames.EVENT_LIMIT; beyond that the copy stops growing while the relay goes on.
    """

    def __init__(self, events: Sum, is_last: IsLast, error_event: Callable[[ReservoirError], bytes]) -> None:
        self._sum = events
        self._error_event = error_event
        self._frames = Frames(events.add, is_last)

    @property
    def done(self) -> bool:
        """Whether the terminal event has arrived: store the answer, then `release`."""
        return self._frames.done

    @property
    def malformed(self) -> int:
        """How many events the copy lacks: those that were not a JSON object or were too large."""
        return self._sum.malformed

    @property
    def truncated(self) -> bool:
        """Whether the answer was longer than the copy may grow."""
        return self._sum.truncated

    @property
    def held(self) -> bytes:
        """Bytes that arrived and have not been relayed."""
        return self._frames.held

    def feed(self, data: bytes) -> bytes:
        """Take the provider's next bytes; returns the bytes to relay now."""
        return self._frames.feed(data)

    def release(self) -> bytes:
        """Return the held bytes; from now on `feed` holds nothing back."""
        return self._frames.release()

    def close(self) -> None:
        """The stream has ended; a last event without its line end counts."""
        self._frames.close()

    def fail(self, error: ReservoirError) -> bytes:
        """The provider broke off: returns the bytes to send in place of the rest, an error event as a rule."""
        return self._frames.fail(self._error_event(error))

    def reply(self) -> Reply:
        """The answer so far, at any time: a stream that was cut short leaves a partial answer."""
        return self._sum.reply(done=self.done)
