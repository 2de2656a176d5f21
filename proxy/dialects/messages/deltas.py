"""The events of a streamed message -> what they add up to. Pure.

https://docs.claude.com/en/docs/build-with-claude/streaming
"""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

from proxy.answer.json_events import decoded, text_of
from proxy.answer.room import COST_OF_AN_ENTRY, Room
from proxy.answer.usage import usage_in
from proxy.dialects.messages.reply import reply_of
from proxy.prompt.chat import Json, Reply, is_shallow

LAST = ("message_stop",)

# What a delta adds to a field of its block.
_TEXTS = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}
_INPUT = "partial_json"


class Deltas:
    """See stream_copy.Sum."""

    def __init__(self) -> None:
        self.malformed = 0
        self._room = Room()
        self._blocks: dict[int, Json] = {}  # as they began
        self._texts: dict[int, dict[str, StringIO]] = {}  # what came after, by block and field
        self._usage: Json = {}
        self._stop_reason: Any = None
        self._error: Any = None

    @property
    def truncated(self) -> bool:
        return self._room.exhausted

    def add(self, data: bytes | None) -> None:
        event = None if data is None else decoded(data)
        if isinstance(event, dict):
            self._add(event)
        else:
            self.malformed += 1

    def reply(self, *, done: bool) -> Reply:
        content = [self._block(place) for place in sorted(self._blocks)]
        usage = usage_in({"usage": self._usage})
        # A client may leave at the stop reason: nothing but the end follows it.
        complete = done or self._stop_reason is not None
        return reply_of(content, self._stop_reason, usage, complete=complete, error=self._error)

    def _add(self, event: Json) -> None:
        place = event.get("index")
        place = place if isinstance(place, int) else 0
        match event.get("type"), event:
            case "message_start", {"message": dict(message)}:
                self._add_usage(message.get("usage"))
            case "content_block_start", {"content_block": dict(block)}:
                if is_shallow(block) and self._room.take(COST_OF_AN_ENTRY + len(repr(block))):
                    self._blocks[place] = block
            case "content_block_delta", {"delta": dict(delta)}:
                self._add_delta(place, delta)
            case "message_delta", {"delta": dict(delta)}:
                self._stop_reason = delta.get("stop_reason") or self._stop_reason
                self._add_usage(event.get("usage"))
            case "error", _:
                error = event.get("error")
                self._error = error if error and is_shallow(error) else "The provider sent an error."
            case _:
                pass  # ping, the ends of blocks and of the message, and events that come some day

    def _add_usage(self, usage: Any) -> None:
        """Later counts replace earlier ones; fields that an event does not repeat stay."""
        if isinstance(usage, dict) and is_shallow(usage) and len(usage) < 100:
            self._usage |= {key: value for key, value in usage.items() if value is not None}

    def _add_delta(self, place: int, delta: Json) -> None:
        kind = delta.get("type")
        if kind == "citations_delta" and isinstance(citation := delta.get("citation"), dict):
            block = self._blocks.get(place)
            if block is not None and is_shallow(citation) and self._room.take(COST_OF_AN_ENTRY + len(repr(citation))):
                known = block.get("citations")
                block["citations"] = [*known, citation] if isinstance(known, list) else [citation]
            return
        name = _INPUT if kind == "input_json_delta" else _TEXTS.get(str(kind))
        if name is None or not isinstance(text := delta.get(name), str):
            return
        texts = self._texts.get(place, {})
        cost = len(text) if text.isascii() else 4 * len(text)
        if self._room.take(cost if name in texts else cost + COST_OF_AN_ENTRY):
            self._texts.setdefault(place, texts).setdefault(name, StringIO(newline="")).write(text)
            self._blocks.setdefault(place, {"type": "text"})

    def _block(self, place: int) -> Json:
        """A block as far as it came. The input of a call is JSON in pieces: half of it stays a text."""
        block = dict(self._blocks[place])
        for name, text in self._texts.get(place, {}).items():
            said = text_of(text.getvalue())
            if name != _INPUT:
                begun = block.get(name)
                block[name] = (begun if isinstance(begun, str) else "") + said
                continue
            try:
                block["input"] = json.loads(said or "{}", parse_constant=lambda _: None)
            except (ValueError, RecursionError):
                block[_INPUT] = said
        return block
