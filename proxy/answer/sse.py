"""Server-sent events: the provider's bytes go on as they came, a copy adds up to the message they carry.

The standard: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream.
What the events hold: https://platform.openai.com/docs/api-reference/chat-streaming.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from io import StringIO
from itertools import groupby
from typing import Any

from proxy.errors import ReservoirError
from proxy.prompt.chat import ChatMessage, Json, Reply, is_shallow

COPY_LIMIT = 32 * 1024 * 1024
EVENT_LIMIT = 16 * 1024 * 1024

_BOM = b"\xef\xbb\xbf"
_LAST = b"[DONE]"
_LONGEST_LAST_LINE = 32
_COST_OF_AN_ENTRY = 256


def error_frame(body: bytes) -> bytes:
    """The event that tells a client of a failure after its stream has begun; `body` is `{"error": {...}}`."""
    return b"data: " + body + b"\n\n"


class StreamCopy:
    """One streamed answer on its way through: relays its bytes and adds up a copy.

    `feed` gives back what to relay now. Held back is only the terminal `[DONE]` event with all that follows
    it, so that the answer can be stored before the client learns that it is whole, and for an instant the
    beginning of a line that may still become it. All that `feed` returned, and then `held`, is what came in.

    The copy keeps at most COPY_LIMIT of an answer's text and no single event over EVENT_LIMIT; beyond that
    it stops growing (`truncated`) while the relay goes on.
    """

    def __init__(self) -> None:
        self.done = False  # the terminal event has come: store the answer, then `release`
        self.malformed = 0  # events that were no JSON object or too large, left out of the copy
        self._answer = _Answer()
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
        """Take bytes as they come from the provider; returns those to relay now."""
        if self._released or not data:
            return data
        if self.done:
            self._held.append(data)
            return b""
        data, self._tail = self._tail + data, b""
        at = 0
        for piece in data.splitlines(keepends=True):  # of bytes: at CR, LF and CRLF only, as the standard has it
            if at == 0 and self._after_cr and piece == b"\n":
                at = 1
                continue
            line = piece.rstrip(b"\r\n")
            ended = len(line) < len(piece)
            if not self._in_line and self._may_be_last(line):
                if not ended:
                    self._tail = line
                    break
                if self._is_last(line):
                    self._dispatch()
                    self.done = True
                    self._held = [data[at:]]
                    return data[:at]
            if ended and not line and not self._in_line:
                self._dispatch()
            else:
                self._keep(line)
                self._in_line = True
                if ended:
                    self._end_line()
            at += len(piece)
        self._after_cr = data.endswith(b"\r")
        return data[:at]

    @property
    def held(self) -> bytes:
        """What came and was not given out: to be relayed once the answer is stored."""
        return b"".join(self._held) + self._tail

    def release(self) -> bytes:
        """Give out what was held; from now on `feed` holds nothing back."""
        held = self.held
        self._held, self._tail, self._released = [], b"", True
        return held

    def close(self) -> None:
        """The stream has ended. A last event that lacks its line end or its empty line counts nevertheless.

        Bytes that were held stay in `held`.
        """
        if self.done or self._released:
            return
        if self._is_last(self._tail):
            self.done = True
            self._held, self._tail = [self._tail], b""
        elif self._in_line:
            self._end_line()
        self._dispatch()

    def fail(self, error: ReservoirError) -> bytes:
        """What the client gets for the rest when the provider breaks off.

        An event that broke off is ended first, else the error would be read as a part of it. When the
        terminal event has come, nothing is missing: the client gets just that.
        """
        if self.done:
            return self.release()
        between = b"\n\n" if self._in_line or self._in_event else b""
        self.close()
        self._tail, self._released = b"", True
        return between + error_frame(error.body())

    @property
    def truncated(self) -> bool:
        """Whether the answer was longer than the copy may grow."""
        return self._answer.room.exhausted

    def reply(self) -> Reply:
        """What there is so far, at any time: a stream that was cut short leaves a partial answer."""
        return self._answer.reply(self.done)

    def _may_be_last(self, line: bytes) -> bool:
        if self._first_line:
            if _BOM.startswith(line):
                return True
            line = line.removeprefix(_BOM)
        return len(line) <= _LONGEST_LAST_LINE and (
            b"data:".startswith(line) or (line.startswith(b"data:") and _LAST.startswith(line[5:].strip(b" \t")))
        )

    def _is_last(self, line: bytes) -> bool:
        if self._first_line:
            line = line.removeprefix(_BOM)
        return line.startswith(b"data:") and line[5:].strip(b" \t") == _LAST

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
            self._size += _COST_OF_AN_ENTRY
        elif not self._oversize:
            self._size -= len(line)

    def _dispatch(self) -> None:
        data, oversize = b"\n".join(self._data), self._oversize
        self._data.clear()
        self._size, self._oversize = 0, False
        self._in_event = self._first_line = False
        if not data and not oversize:
            return
        try:
            chunk = None if oversize else _DECODER.decode(data.decode(errors="replace"))
        except (ValueError, RecursionError):
            chunk = None
        if isinstance(chunk, dict):
            self._answer.add(chunk)
        else:
            self.malformed += 1


class _Room:
    """How much the copy may still grow; shared by all that grows in it."""

    def __init__(self, size: int) -> None:
        self._left = size
        self.exhausted = False

    def take(self, size: int) -> bool:
        """Whether there is room for that much. Once there was not there is none: texts must have no holes."""
        if size > self._left:
            self.exhausted = True
        if not self.exhausted:
            self._left -= size
        return not self.exhausted


class _Fields:
    """An object that arrives in pieces: texts and lists grow, other values are replaced.

    Some providers repeat an id, a role or a function's name with every piece: those are kept once.
    """

    _SETTLED = frozenset({"id", "role", "type"})
    _NESTED = frozenset({"audio", "custom", "function", "function_call"})

    def __init__(self, room: _Room) -> None:
        self._room = room
        self._values: dict[str, Any] = {}

    def get(self, key: str) -> Any:
        return self._values.get(key)

    def add(self, piece: Json) -> None:
        for key, value in piece.items():
            if value is None:
                continue
            if key not in self._values and not self._room.take(_COST_OF_AN_ENTRY + len(key)):
                continue
            if isinstance(value, str):
                self._add_text(key, value)
            elif isinstance(value, list):
                self._add_list(key, value)
            elif isinstance(value, dict) and key in self._NESTED:
                nested = self._values.get(key)
                if not isinstance(nested, _Fields):
                    nested = self._values[key] = _Fields(self._room)
                nested.add(value)
            elif not isinstance(value, dict) or (is_shallow(value) and self._room.take(len(repr(value)))):
                self._values[key] = value

    def _add_text(self, key: str, text: str) -> None:
        if not self._room.take(len(text) if text.isascii() else 4 * len(text)):
            return
        known = self._values.get(key)
        if key in self._SETTLED:
            self._values[key] = text or known or ""
        elif isinstance(known, list):
            self._add_list(key, [{"type": "text", "text": text}])
        elif not isinstance(known, StringIO):
            self._values[key] = StringIO(newline="")
            self._values[key].write(text)
        elif key != "name" or known.getvalue() != text:
            known.write(text)

    def _add_list(self, key: str, items: list[Any]) -> None:
        if not is_shallow(items) or not self._room.take(len(items) * _COST_OF_AN_ENTRY + len(repr(items))):
            return
        known = self._values.get(key)
        if isinstance(known, StringIO):
            known = self._values[key] = [{"type": "text", "text": known.getvalue()}]
        if isinstance(known, list):
            known.extend(items)
        else:
            self._values[key] = list(items)

    def whole(self) -> Json:
        return {key: _whole(value) for key, value in self._values.items()}


class _Choice:
    """One of the answers that a request may ask for, as it grows."""

    def __init__(self, room: _Room) -> None:
        self._room = room
        self._fields = _Fields(room)
        self._calls: dict[int, list[_Fields]] = {}
        self._last_call = 0
        self.finish_reason = ""

    def add(self, choice: Json) -> None:
        delta = choice.get("delta")
        if isinstance(delta, dict):
            calls = delta.get("tool_calls")
            for call in calls if isinstance(calls, list) else ():
                if isinstance(call, dict):
                    self._add_call(call)
            self._fields.add({key: value for key, value in delta.items() if key != "tool_calls"})
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason:
            self.finish_reason = reason

    def _add_call(self, piece: Json) -> None:
        """Pieces of a call share an index.

        Some providers give no index, or the same to every call; there a new id with a function's name
        begins a new call. (An id alone does not: others invent one for every piece.)
        """
        call_id, function = piece.get("id"), piece.get("function")
        named = isinstance(function, dict) and bool(function.get("name"))
        index = piece.get("index")
        if not isinstance(index, int):
            index = self._last_call
        calls = self._calls.get(index)
        known_id = calls[-1].get("id") if calls else None
        if not calls or (named and call_id and known_id and call_id != known_id):
            if not self._room.take(_COST_OF_AN_ENTRY):
                return
            calls = self._calls.setdefault(index, [])
            calls.append(_Fields(self._room))
        self._last_call = index
        calls[-1].add({key: value for key, value in piece.items() if key != "index"})

    def message(self) -> ChatMessage:
        fields = {"role": "assistant", "content": None} | self._fields.whole()
        calls = [call.whole() for _, group in sorted(self._calls.items()) for call in group]
        for call in calls:
            if "function" in call:
                call.setdefault("type", "function")
        return ChatMessage.make(fields | {"tool_calls": calls} if calls else fields)


class _Answer:
    """What the chunks of one answer add up to."""

    def __init__(self) -> None:
        self.room = _Room(COPY_LIMIT)
        self._choices: dict[int, _Choice] = {}
        self._usage: Json | None = None
        self._error: Any = None

    def add(self, chunk: Json) -> None:
        error, usage = chunk.get("error"), chunk.get("usage")
        if error and is_shallow(error):
            self._error = error
        if isinstance(usage, dict) and is_shallow(usage):
            self._usage = usage
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                self._add_choice(choice)

    def _add_choice(self, choice: Json) -> None:
        index = choice.get("index")
        if not isinstance(index, int):
            index = 0
        if index not in self._choices:
            if not self.room.take(_COST_OF_AN_ENTRY):
                return
            self._choices[index] = _Choice(self.room)
        self._choices[index].add(choice)

    def reply(self, done: bool) -> Reply:
        choices = [choice for _, choice in sorted(self._choices.items())]
        finished = bool(choices) and all(choice.finish_reason for choice in choices)
        return Reply(
            messages=tuple(choice.message() for choice in choices),
            finish_reasons=tuple(choice.finish_reason for choice in choices),
            usage=self._usage,
            error=self._error,
            complete=(done or finished) and self._error is None,
        )


def _whole(value: Any) -> Any:
    match value:
        case StringIO():
            return _text(value.getvalue())
        case _Fields():
            return value.whole()
        case list():
            return _joined(value)
        case _:
            return value


def _text(text: str) -> str:
    """A character that was cut into two escapes, one in each of two events, becomes one again."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _joined(parts: Iterable[Any]) -> list[Any]:
    """Content parts, with neighbouring pieces of one text (or of one thought: Mistral) made one."""
    joined: list[Any] = []
    for kind, run in groupby(parts, _kind):
        if kind == "text":
            joined.append({"type": kind, kind: _text("".join(part[kind] for part in run))})
        elif kind == "thinking":
            joined.append({"type": kind, kind: _joined(inner for part in run for inner in part[kind])})
        else:
            joined.extend(run)
    return joined


def _kind(part: Any) -> str | None:
    match part:
        case {"type": "text", "text": str()} if len(part) == 2:
            return "text"
        case {"type": "thinking", "thinking": list()} if len(part) == 2:
            return "thinking"
        case _:
            return None


def _finite(number: str) -> float | None:
    value = float(number)
    return value if math.isfinite(value) else None


# What Python would read but JSON, and PostgreSQL after us, does not know: NaN, Infinity, 1e999.
_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=lambda _: None)
