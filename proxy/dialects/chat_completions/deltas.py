"""Adding up deltas: the chunks of a streamed answer -> the messages that they carry. Pure.

The chunks: https://platform.openai.com/docs/api-reference/chat-streaming.
"""

from __future__ import annotations

from collections.abc import Iterable
from io import StringIO
from itertools import groupby
from typing import Any

from proxy.answer.json_events import decoded, text_of
from proxy.answer.room import COST_OF_AN_ENTRY, Room
from proxy.answer.usage import usage_in
from proxy.prompt.chat import ChatMessage, Json, Reply, is_shallow
from proxy.prompt.json_cost import is_costly


class Deltas:
    """What the events of one streamed answer add up to: at most room.COPY_LIMIT bytes of text."""

    def __init__(self) -> None:
        self.malformed = 0  # events that were not a JSON object or were too large; the sum lacks them
        self._room = Room()
        self._choices: dict[int, _Choice] = {}
        self._usage: Json | None = None
        self._error: Any = None

    @property
    def truncated(self) -> bool:
        """Whether the answer was longer than the sum may grow."""
        return self._room.exhausted

    def add(self, data: bytes | None) -> None:
        """Add the data of one event; None stands for an event that was too large to keep."""
        if data is not None and is_costly(data):
            data = None
        chunk = None if data is None else decoded(data)
        if isinstance(chunk, dict):
            self._add_chunk(chunk)
        elif data is not None and b"\n" in data:  # some gateways end an event by one line break
            for line in data.split(b"\n"):
                self.add(line)
        else:
            self.malformed += 1

    def reply(self, *, done: bool) -> Reply:
        """The answer so far. `done` says that the terminal event has arrived."""
        choices = [choice for _, choice in sorted(self._choices.items())]
        finished = bool(choices) and all(choice.finish_reason for choice in choices)
        return Reply(
            messages=tuple(choice.message() for choice in choices),
            finish_reasons=tuple(choice.finish_reason for choice in choices),
            usage=self._usage,
            error=self._error,
            complete=(done or finished) and self._error is None,
        )

    def _add_chunk(self, chunk: Json) -> None:
        error, usage = chunk.get("error"), usage_in(chunk)
        if error and is_shallow(error):
            self._error = error
        if usage is not None:
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
            if not self._room.take(COST_OF_AN_ENTRY):
                return
            self._choices[index] = _Choice(self._room)
        self._choices[index].add(choice)


class _Fields:
    """An object that arrives in pieces: texts and lists grow, other values are replaced.

    Some providers repeat an id, a role or a function's name in every piece; these are kept once.
    """

    _SETTLED = frozenset({"id", "role", "type"})
    _NESTED = frozenset({"audio", "custom", "function", "function_call"})

    def __init__(self, room: Room) -> None:
        self._room = room
        self._values: dict[str, Any] = {}

    def get(self, key: str) -> Any:
        return self._values.get(key)

    def add(self, piece: Json) -> None:
        for key, value in piece.items():
            if value is None:
                continue
            if key not in self._values and not self._room.take(COST_OF_AN_ENTRY + len(key)):
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
        if not is_shallow(items) or not self._room.take(len(items) * COST_OF_AN_ENTRY + len(repr(items))):
            return
        known = self._values.get(key)
        if isinstance(known, StringIO):
            known = self._values[key] = [{"type": "text", "text": known.getvalue()}]
        if isinstance(known, list):
            known.extend(items)
        else:
            self._values[key] = list(items)

    def as_json(self) -> Json:
        return {key: _as_json(value) for key, value in self._values.items()}


class _Choice:
    """One of the choices of an answer, as it grows."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._fields = _Fields(room)
        self._calls: dict[int, list[_Fields]] = {}
        self._last_call = 0
        self.finish_reason = ""

    def add(self, choice: Json) -> None:
        delta = choice.get("delta") or choice.get("message")
        if isinstance(delta, dict):
            calls = delta.get("tool_calls")
            calls = [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
            for place, call in enumerate(calls):
                self._add_call(call, place if len(calls) > 1 else None)
            self._fields.add({key: value for key, value in delta.items() if key != "tool_calls"})
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason:
            self.finish_reason = reason

    def _add_call(self, piece: Json, place: int | None) -> None:
        """Add a piece of a tool call; the pieces of one call share an index. `place` is its place among several.

        Some providers give no index, or one index for all calls. With them, a new id together with a function's name
        begins a new call, as do a name and arguments after whole arguments. A new id alone does not: other providers
        invent one for every piece. A piece under a new index that neither names nor identifies a call goes on with the
        last one.
        """
        call_id, function = piece.get("id"), piece.get("function")
        function = function if isinstance(function, dict) else {}
        named = bool(function.get("name"))
        index = piece.get("index")
        if not isinstance(index, int):
            index = self._last_call if place is None else place
        if index not in self._calls and self._calls and not named and not call_id and place is None:
            index = self._last_call
        calls = self._calls.get(index)
        known_id = calls[-1].get("id") if calls else None
        another_id = bool(call_id and known_id and call_id != known_id)
        identified = bool(call_id and known_id)
        after_whole = bool(calls and not identified and function.get("arguments") and _is_whole(calls[-1]))
        if not calls or (named and (another_id or after_whole)):
            if not self._room.take(COST_OF_AN_ENTRY):
                return
            calls = self._calls.setdefault(index, [])
            calls.append(_Fields(self._room))
        self._last_call = index
        calls[-1].add({key: value for key, value in piece.items() if key != "index"})

    def message(self) -> ChatMessage:
        fields = {"role": "assistant", "content": None} | self._fields.as_json()
        calls = [call.as_json() for _, group in sorted(self._calls.items()) for call in group]
        for call in calls:
            if "function" in call:
                call.setdefault("type", "function")
        return ChatMessage.make(fields | {"tool_calls": calls} if calls else fields)


def _is_whole(call: _Fields) -> bool:
    """Whether the arguments of a call have arrived: a JSON value, not the beginning of one."""
    function = call.get("function")
    arguments = function.get("arguments") if isinstance(function, _Fields) else None
    return isinstance(arguments, StringIO) and decoded(arguments.getvalue().encode(errors="replace")) is not None


def _as_json(value: Any) -> Any:
    match value:
        case StringIO():
            return text_of(value.getvalue())
        case _Fields():
            return value.as_json()
        case list():
            return _joined(value)
        case _:
            return value


def _joined(parts: Iterable[Any]) -> list[Any]:
    """Content parts, with adjacent pieces of one text (or, from Mistral, of one thought) joined."""
    joined: list[Any] = []
    for kind, run in groupby(parts, _kind):
        if kind == "text":
            joined.append({"type": kind, kind: text_of("".join(part[kind] for part in run))})
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
