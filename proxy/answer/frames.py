"""Server-sent events: bytes -> events, whatever the pieces in which the bytes arrive. Pure.

The standard: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum

EVENT_LIMIT = 16 * 1024 * 1024  # bytes; the data of a larger event is not kept
HALF_EVENT = 2**16  # bytes; a longer unfinished event is relayed before its end arrives

_BOM = b"\xef\xbb\xbf"
_DONE = b"[DONE]"
_LONGEST_LAST_LINE = 32
_LONGEST_HEAD = 96  # bytes of a line that name the type of its event
_COST_OF_A_LINE = 256  # bytes that a list entry takes beside its text
# A line with its end, or a run of line ends. Linear: the alternatives begin with different bytes.
_LINES = re.compile(rb"[^\r\n]+(?:\r\n|\r|\n)?|[\r\n]+")
_LINE_ENDS = b"\r\n"
_EMPTY_LINES = (b"\n\n", b"\r\n\r\n", b"\r\r")


class Last(Enum):
    """Whether a line belongs to the last event of a stream."""

    NO = 0
    PERHAPS = 1  # more of the line has to come
    LINE = 2  # it is the last event, all of it
    EVENT = 3  # the event with this line is the last


IsLast = Callable[[bytes, bool], Last]
"""Looks at a line as far as it has come, and whether that is all of it. PERHAPS is for unfinished lines alone."""


def done_line(line: bytes, ended: bool) -> Last:
    """Whether a line is `data: [DONE]`, the end of OpenAI's streams of chunks."""
    if len(line) > _LONGEST_LAST_LINE:
        return Last.NO
    if ended:
        return Last.LINE if line.startswith(b"data:") and line[5:].strip(b" \t") == _DONE else Last.NO
    may_be = b"data:".startswith(line) or (line.startswith(b"data:") and _DONE.startswith(line[5:].strip(b" \t")))
    return Last.PERHAPS if may_be else Last.NO


def event_of(*types: str) -> IsLast:
    """Recognises typed events: by the line `event: TYPE`, or by data that begins with `{"type": "TYPE"`."""
    names = tuple(b"event:" + name.encode() for name in types)
    heads = tuple(b'data:{"type":"' + name.encode() + b'"' for name in types)

    def is_last(line: bytes, ended: bool) -> Last:
        head = line[:_LONGEST_HEAD].replace(b" ", b"")
        if head.startswith(heads) or (ended and head in names and len(line) < _LONGEST_HEAD):
            return Last.EVENT
        more_may_come = not ended and len(line) < _LONGEST_HEAD
        return Last.PERHAPS if more_may_come and any(one.startswith(head) for one in names + heads) else Last.NO

    return is_last


class Frames:
    """Splits a stream into events, and says which bytes to relay.

    `on_event` receives the data of each event, or None for an event over EVENT_LIMIT.

    `feed` returns the bytes to relay now. It holds back the terminal event, which `is_last` recognises by one of its
    lines, and everything after it, and, briefly, the beginning of a line that may become such a line. What `feed`
    returned, followed by `held`, is exactly what came in.
    """

    def __init__(self, on_event: Callable[[bytes | None], None], is_last: IsLast) -> None:
        self.done = False  # the terminal event has arrived
        self._ending = False  # it has begun
        self._on_event = on_event
        self._is_last = is_last
        self._held: list[bytes] = []
        self._released = False
        self._tail = b""  # beginning of a line, neither relayed nor parsed yet
        self._line: list[bytes] = []  # beginning of a line, relayed
        self._in_line = False
        self._in_event = False
        self._first_line = True
        self._after_cr = False
        self._data: list[bytes] = []
        self._size = 0  # of `_line` and `_data`
        self._oversize = False

    def feed(self, data: bytes) -> bytes:
        """Take the provider's next bytes; returns the bytes to relay now."""
        if self._released or not data:
            return data
        if self.done:
            self._held.append(data)
            return b""
        data, self._tail = self._tail + data, b""
        kept_from = 0 if self._ending else None
        at = self._finish_line(data)
        for match in _LINES.finditer(data, at):
            piece = match.group()
            if piece[0] in _LINE_ENDS:  # the event's end, perhaps several times
                self._dispatch()
                at += len(piece)
                if self._ending:
                    self.done = True
                    break
                continue
            line = piece.rstrip(b"\r\n")
            ended = len(line) < len(piece)
            last = Last.NO if self._in_line or self._ending else self._kind(line, ended=ended)
            if last is Last.PERHAPS:
                self._tail = line
                break
            if last is Last.LINE:
                self._dispatch()
                self.done = True
                kept_from = at
                break
            if last is Last.EVENT:
                self._ending, kept_from = True, at
            self._take(line, ended=ended)
            at += len(piece)
        self._after_cr = data.endswith(b"\r")
        if kept_from is None:
            return data[:at]
        self._held.append(data[kept_from:])
        return data[:kept_from]

    def _finish_line(self, data: bytes) -> int:
        """End the line that earlier bytes began, if `data` begins with its end; returns the length of that end.

        Line ends are CR, LF and CRLF, as in the standard.
        """
        if self._after_cr and data.startswith(b"\n"):
            return 1
        if not self._in_line or data[0] not in _LINE_ENDS:
            return 0
        self._end_line()
        return 2 if data.startswith(b"\r\n") else 1

    @property
    def held(self) -> bytes:
        """Bytes that arrived and have not been relayed."""
        return b"".join(self._held) + self._tail

    def release(self) -> bytes:
        """Return the held bytes; from now on `feed` holds nothing back."""
        held = self.held
        self._held, self._tail, self._released = [], b"", True
        return held

    def close(self) -> None:
        """The stream has ended. A last event counts even if its line end or its empty line is missing.

        Held bytes stay in `held`.
        """
        if self.done or self._released:
            return
        last = self._kind(self._tail, ended=True)
        if last in (Last.LINE, Last.EVENT):
            self._ending = True
            self._held, self._tail = [self._tail], b""
        self._end()
        self.done = self._ending

    def _end(self) -> None:
        """Take what has come of an unfinished event."""
        if self._in_line:
            self._end_line()
        self._dispatch()

    def fail(self, frame: bytes) -> bytes:
        """The stream broke off: returns the bytes to send in place of the rest.

        These are `frame`, after the end of an unfinished event: without that, the client would read the frame as
        part of the event. After the terminal event nothing is missing, and the held bytes are returned instead.
        """
        if self.done:
            return self.release()
        if self._kind(self._tail, ended=True) is Last.LINE:
            self.close()
            return self.release()
        # The client has seen nothing of a terminal event that has begun.
        between = b"\n\n" if (self._in_line or self._in_event) and not self._ending else b""
        self._end()
        self._held, self._tail, self._released = [], b"", True
        return between + frame

    def _kind(self, line: bytes, *, ended: bool) -> Last:
        if self._first_line:
            if not ended and _BOM.startswith(line):
                return Last.PERHAPS
            line = line.removeprefix(_BOM)
        return self._is_last(line, ended)

    def _take(self, line: bytes, *, ended: bool) -> None:
        self._keep(line)
        self._in_line = True
        if ended:
            self._end_line()

    def _keep(self, fragment: bytes) -> None:
        self._size += len(fragment)
        if self._size > EVENT_LIMIT:
            self._oversize = True
        if self._oversize:
            self._line.clear()
            self._data.clear()
        elif fragment:
            self._line.append(fragment)

    def _end_line(self) -> None:
        line = b"".join(self._line)
        self._line.clear()
        self._in_line, self._in_event = False, True
        if self._first_line:
            self._first_line = False
            line = line.removeprefix(_BOM)
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
            self._size += _COST_OF_A_LINE
        elif not self._oversize:
            self._size -= len(line)

    def _dispatch(self) -> None:
        data, oversize = b"\n".join(self._data), self._oversize
        self._data.clear()
        self._size, self._oversize = 0, False
        self._in_event = self._first_line = False
        if data or oversize:
            self._on_event(None if oversize else data)


def are_events(beginning: bytes) -> bool | None:
    """Whether a body that begins like this is an event stream, whatever its Content-Type; None for too few bytes."""
    text = beginning.removeprefix(_BOM).lstrip(b" \t\r\n")
    if not text:
        return None
    if text.startswith((b":", b"data:", b"event:", b"id:", b"retry:")):
        return True
    return None if any(name.startswith(text) for name in (b"data:", b"event:", b"id:", b"retry:")) else False


class WholeEvents:
    """Holds back the beginning of an event until the empty line that ends it, for at most HALF_EVENT bytes."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; returns the bytes up to the end of the last whole event."""
        self._held += data
        end = max((at + len(line) for line in _EMPTY_LINES if (at := self._held.rfind(line)) >= 0), default=0)
        # Some gateways end an event by one line break: what comes before the last of several data lines is whole.
        last = self._held.rfind(b"\ndata:", end) + 1
        if last and self._held.startswith(b"data:", end):
            end = last
        if len(self._held) - end > HALF_EVENT:
            end = len(self._held)
        ready, self._held = self._held[:end], self._held[end:]
        return ready

    def rest(self) -> bytes:
        """Return the unfinished event that is held back."""
        rest, self._held = self._held, b""
        return rest
