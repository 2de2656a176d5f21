"""The copy of a streamed answer: its frames split into events, the events added up. Pure."""

from __future__ import annotations

from proxy.answer.deltas import Deltas
from proxy.answer.frames import Frames, error_frame
from proxy.errors import ReservoirError
from proxy.prompt.chat import Reply


class StreamCopy:
    """One streamed answer on its way through: its bytes are relayed, a copy is added up.

    `feed` returns the bytes to relay now; see Frames for the bytes that it holds back, so that the answer can be
    stored before the client learns that it is complete. The copy keeps at most deltas.COPY_LIMIT bytes of text
    and no single event over frames.EVENT_LIMIT; beyond that the copy stops growing while the relay goes on.
    """

    def __init__(self) -> None:
        self._deltas = Deltas()
        self._frames = Frames(self._deltas.add)

    @property
    def done(self) -> bool:
        """Whether the terminal event has arrived: store the answer, then `release`."""
        return self._frames.done

    @property
    def malformed(self) -> int:
        """How many events the copy lacks: those that were not a JSON object or were too large."""
        return self._deltas.malformed

    @property
    def truncated(self) -> bool:
        """Whether the answer was longer than the copy may grow."""
        return self._deltas.truncated

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
        return self._frames.fail(error_frame(error.body()))

    def reply(self) -> Reply:
        """The answer so far, at any time: a stream that was cut short leaves a partial answer."""
        return self._deltas.reply(done=self.done)
