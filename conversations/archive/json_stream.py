"""Pure: a file of JSON Lines, one JSON array of any size, or objects over several lines -> values with line numbers."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator
from json import JSONDecodeError
from typing import IO, Any, NamedTuple

LONGEST = 2**28  # characters of one value: three times the longest message with its vectors
CHUNK = 2**16
_SPACE = " \t\r\n"


class Broken(NamedTuple):
    """A line that is not valid JSON."""

    reason: str


def values(stream: IO[bytes]) -> Iterator[tuple[int, Any]]:
    """Yield each value with its line, from 1. Invalid JSON is yielded as Broken, and ends an array."""
    start = stream.read(3)
    start = stream.read(CHUNK) if start == codecs.BOM_UTF8 else start
    while start and not start.strip():  # blank lines before the first value
        more = stream.read(CHUNK)
        if not more:
            return
        start += more
    if start.lstrip()[:1] == b"[":
        yield from _reported(_Window(start, stream), _array)
        return
    if b"\n" not in start:
        start += stream.readline(LONGEST)
    if _is_indented(start.lstrip()):
        yield from _reported(_Window(start, stream), _objects)
    else:
        yield from _lines(start, stream)


def _is_indented(start: bytes) -> bool:
    """Whether a file's first line is only the beginning of an object, as in JSON with indents."""
    line, line_break, _ = start.partition(b"\n")
    return bool(line_break) and line.startswith(b"{") and line.rstrip().endswith((b"{", b"[", b","))


def _lines(start: bytes, stream: IO[bytes]) -> Iterator[tuple[int, Any]]:
    number = 0
    rest = start
    while True:
        line = rest
        if b"\n" in rest:
            line, _, rest = rest.partition(b"\n")
        else:
            line, rest = rest + stream.readline(LONGEST), b""
        if not line and not rest:
            return
        number += 1
        if len(line) >= LONGEST:
            while (more := stream.readline(LONGEST)) and not more.endswith(b"\n"):
                pass
            yield number, Broken(f"it is longer than {LONGEST} bytes")
        elif line.strip():
            yield number, _parsed(line)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line.decode())
    except UnicodeDecodeError:
        return Broken("it is not UTF-8")
    except JSONDecodeError as error:
        return Broken(f"it is not JSON ({error.msg}, column {error.colno})")
    except (ValueError, RecursionError):
        return Broken("it is JSON that cannot be read")


def _reported(window: _Window, read: Callable[[_Window], Iterator[tuple[int, Any]]]) -> Iterator[tuple[int, Any]]:
    """The values that `read` finds; what cannot be read ends them as Broken."""
    try:
        yield from read(window)
    except UnicodeDecodeError:
        yield window.line, Broken("it is not UTF-8")
    except JSONDecodeError as error:
        line = window.line + window.text.count("\n", window.at, max(window.at, error.pos))
        yield line, Broken(f"it is not JSON ({error.msg}); nothing after it can be read")
    except (ValueError, RecursionError):
        yield window.line, Broken("it is JSON that cannot be read; nor can anything after it")


def _array(window: _Window) -> Iterator[tuple[int, Any]]:
    """The elements of an array. More text is read while the current element is incomplete."""
    window.expect("[")
    if window.peek() == "]":
        return
    while True:
        yield window.value()
        if window.expect(",]") == "]":
            return


def _objects(window: _Window) -> Iterator[tuple[int, Any]]:
    """Objects one after the other, each over several lines."""
    while window.peek():
        yield window.value()


class _Window:
    """The part of a stream's text that is in memory; `at` is the position in it, `line` the line there."""

    def __init__(self, start: bytes, stream: IO[bytes]) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._json = json.JSONDecoder()
        self._ended = False
        self.text = self._decoder.decode(start)
        self.at = 0
        self.line = 1

    def peek(self) -> str:
        """The next character other than white space; "" at the end."""
        while True:
            end = self.at
            while end < len(self.text) and self.text[end] in _SPACE:
                end += 1
            self._move(end)
            if self.at < len(self.text):
                return self.text[self.at]
            if not self._more():
                return ""

    def expect(self, allowed: str) -> str:
        found = self.peek()
        if not found or found not in allowed:
            raise JSONDecodeError(f"Expecting {' or '.join(allowed)}", self.text, self.at)
        self._move(self.at + 1)
        return found

    def value(self) -> tuple[int, Any]:
        """The line that the next value begins on, and the value."""
        self.peek()
        while True:
            try:
                value, end = self._json.raw_decode(self.text, self.at)
                if end < len(self.text) or not self._more():  # a number may continue
                    break
            except JSONDecodeError as error:
                # An unterminated string may only be incomplete; so may anything near the end of the text.
                cut = error.msg.startswith("Unterminated") or error.pos > len(self.text) - 16
                if not cut or not self._more():
                    raise
        line = self.line
        self._move(end)
        return line, value

    def _move(self, to: int) -> None:
        self.line += self.text.count("\n", self.at, to)
        self.at = to

    def _more(self) -> bool:
        if self._ended:
            return False
        if len(self.text) - self.at > LONGEST:
            raise ValueError("the value is too long")
        # Double the text each time, so that a long value is not parsed too often.
        data = self._stream.read(max(CHUNK, len(self.text) - self.at))
        self._ended = not data
        self.text = self.text[self.at :] + self._decoder.decode(data, final=self._ended)
        self.at = 0
        return bool(data)
