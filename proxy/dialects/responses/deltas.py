"""The typed events of a streamed response -> what they add up to. Pure.

https://platform.openai.com/docs/api-reference/responses-streaming
"""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from operator import itemgetter
from typing import Any

from proxy.answer.json_events import decoded, text_of
from proxy.answer.room import COST_OF_AN_ENTRY, Room
from proxy.dialects.responses.reply import reply_of
from proxy.prompt.chat import Json, Reply, is_shallow

LAST = ("response.completed", "response.incomplete", "response.failed")

# What an event's delta adds to: a field of its item, or the text of a part of a list in it.
_FIELDS: dict[str, str] = {
    "response.function_call_arguments.delta": "arguments",
    "response.mcp_call_arguments.delta": "arguments",
    "response.custom_tool_call_input.delta": "input",
    "response.code_interpreter_call_code.delta": "code",
}
_PARTS: dict[str, tuple[str, str, Json, str]] = {
    "response.output_text.delta": ("content", "content_index", {"type": "output_text", "annotations": []}, "text"),
    "response.refusal.delta": ("content", "content_index", {"type": "refusal"}, "refusal"),
    "response.reasoning_text.delta": ("content", "content_index", {"type": "reasoning_text"}, "text"),
    "response.reasoning_summary_text.delta": ("summary", "summary_index", {"type": "summary_text"}, "text"),
}


class Deltas:
    """See stream_copy.Sum. The last event repeats the whole response; before that, the deltas are added up."""

    def __init__(self) -> None:
        self.malformed = 0
        self._room = Room()
        self._items: dict[int, Json] = {}  # by their place; whole, or as they began
        # Of items that are not whole, by place: what is added up, by its list, its place there, and its field.
        self._texts: dict[int, dict[tuple[str, int, str], tuple[StringIO, Json]]] = {}
        self._response: Json = {}
        self._error: Any = None

    @property
    def truncated(self) -> bool:
        return self._room.exhausted

    def add(self, data: bytes | None) -> None:
        event = None if data is None else decoded(data)
        if isinstance(event, dict):
            self._add(event)
        elif data is None or data.strip() != b"[DONE]":
            self.malformed += 1

    def reply(self, *, done: bool) -> Reply:
        items = [self._item(place) for place in sorted(self._items)]
        reply = reply_of(self._response, items)
        if self._error is not None:
            return replace(reply, error=self._error, complete=False)
        return replace(reply, complete=True) if done and not reply.error else reply

    def _add(self, event: Json) -> None:
        kind, response, item = event.get("type"), event.get("response"), event.get("item")
        place = event.get("output_index")
        place = place if isinstance(place, int) else 0
        if isinstance(response, dict):
            self._response = {key: value for key, value in response.items() if key not in ("instructions", "tools")}
        elif kind in ("response.output_item.added", "response.output_item.done") and isinstance(item, dict):
            if is_shallow(item) and self._room.take(COST_OF_AN_ENTRY + len(repr(item))):
                self._items[place] = item
                if kind == "response.output_item.done":
                    self._texts.pop(place, None)
        elif isinstance(kind, str) and isinstance(delta := event.get("delta"), str):
            self._add_text(kind, place, event, delta)
        elif kind == "error" or event.get("error"):
            error = event.get("error") or {key: value for key, value in event.items() if key != "type"}
            self._error = error if is_shallow(error) else "The provider sent an error."

    def _add_text(self, kind: str, place: int, event: Json, delta: str) -> None:
        if kind in _FIELDS:
            where, index, part, name = "", "", Json(), _FIELDS[kind]
        elif kind in _PARTS:
            where, index, part, name = _PARTS[kind]
        else:
            return
        number = event.get(index)
        key = (where, number if isinstance(number, int) else 0, name)
        texts = self._texts.get(place, {})
        cost = len(delta) if delta.isascii() else 4 * len(delta)
        if self._room.take(cost if key in texts else cost + COST_OF_AN_ENTRY):
            if key not in texts:
                self._texts.setdefault(place, texts)[key] = (StringIO(newline=""), part)
            texts[key][0].write(delta)
            self._items.setdefault(place, {"type": "message", "role": "assistant"})

    def _item(self, place: int) -> Json:
        """An item as far as it came."""
        item = dict(self._items[place])
        lists: dict[str, list[Json]] = {}
        for (where, _, name), (text, part) in sorted(self._texts.get(place, {}).items(), key=itemgetter(0)):
            said = text_of(text.getvalue())
            if where:
                lists.setdefault(where, []).append({**part, name: said})
            else:
                item[name] = said
        return item | lists
