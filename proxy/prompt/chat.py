"""The values of every chat API: requests, messages, replies, and additions to a request. Pure.

A request keeps the client's text, with the spans of its messages. Added messages are spliced into that text;
everything else stays byte for byte as it came, including the digits of numbers and the order of keys.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from json.decoder import JSONDecodeError
from typing import Any, Literal, Protocol

from conversations.shapes import role_of
from conversations.turns import Json as Json  # re-exported
from proxy.errors import BadRequest
from proxy.prompt.json_cost import is_costly
from proxy.prompt.json_spans import Span, object_with_spans

# Where the memories stand: in a message of this role before the last user message, or inside that message.
MemoryRole = Literal["inside", "system", "user"]

DEEPEST_VALUE = 32

RUN_BEGINS, RUN_ENDS = '{"role": "assistant", "output": [', "]}"

SYSTEM_ROLES = frozenset({"system", "developer"})
ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn as the API sent it: its JSON text, and that text parsed.

    `spoken_by` is its role where the payload names another or none. A `run` of several values of the list that the
    API takes, which are one turn, has their texts, separated by commas, and the payload `{"role", "output": [...]}`.
    """

    raw: str
    payload: Mapping[str, Any]
    spoken_by: str = ""
    is_run: bool = False

    @property
    def role(self) -> str:
        return self.spoken_by or str(self.payload["role"])

    @property
    def stored(self) -> str:
        """The JSON text of the payload."""
        return f"{RUN_BEGINS}{self.raw}{RUN_ENDS}" if self.is_run else self.raw

    @property
    def is_system(self) -> bool:
        """`developer` counts as `system`."""
        return self.role in SYSTEM_ROLES

    @classmethod
    def read(cls, stored: str) -> ChatMessage:
        """The message of which `stored` is the JSON text of the payload. Raises ValueError for no object."""
        payload = json.loads(stored)
        if not isinstance(payload, dict):
            raise ValueError("A message is a JSON object.")
        raw = as_listed(stored)
        return cls(raw, payload, role_of(payload), raw is not stored)

    @classmethod
    def make(cls, payload: Mapping[str, Any]) -> ChatMessage:
        """A message made here, from its payload."""
        return cls(json.dumps(payload, ensure_ascii=True), payload)


def as_listed(stored: str) -> str:
    """A message's JSON text as it stands in a request's list: a run is its values, separated by commas."""
    return stored[len(RUN_BEGINS) : -len(RUN_ENDS)] if stored.startswith(RUN_BEGINS) else stored


@dataclass(frozen=True, slots=True)
class Memory:
    """A stored message recalled for a request, in the form that the model is shown.

    `text` is the whole message or a span of it; `id` is the stored message's.
    """

    id: int
    role: str
    name: str
    created: datetime  # aware, UTC
    text: str
    score: float = 0.0
    is_wish: bool = False  # says what the user always wants


@dataclass(frozen=True, slots=True)
class Turn:
    """A stored message that is added to a request as a turn."""

    id: int
    message: ChatMessage
    created: datetime | None = None


@dataclass(frozen=True, slots=True)
class Additions:
    """The additions to a request: the latest turns, oldest first, and memories, most relevant first."""

    turns: tuple[Turn, ...] = ()
    memories: tuple[Memory, ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """A provider's answer, added up.

    One message for each choice, in the order of `index`. `complete` says that the answer ended as the protocol
    requires; `error` is the provider's error object, if it sent one.
    """

    messages: tuple[ChatMessage, ...] = ()
    finish_reasons: tuple[str, ...] = ()
    usage: Json | None = None
    error: Any = None
    complete: bool = False
    pending: bool = False  # the provider is working on it in the background
    id: str = ""  # the provider's, where a later request may name it


@dataclass(frozen=True, slots=True)
class Chat:
    """A decoded request: `body` is its text, `fields` the text parsed; the spans mark the parts that may change.

    `dialect` names the API that it is written for. `follows` is the provider's id of the answer, or of the
    conversation, that the request continues where the history lies with the provider. `in_parts` says that a text and
    a list of one part are one to the API and its prompt cache: clients write a message now so, now so, and the block
    is a part of its own in both.
    """

    body: str
    fields: Json
    messages: tuple[ChatMessage, ...]
    messages_span: Span | None  # None for a request that names none
    model_span: Span | None
    changed: bool = field(default=False)
    dialect: str = "chat_completions"
    follows: str = ""
    instructions: tuple[str, ...] = ()  # texts that the model is shown besides the messages
    messages_field: str = "messages"  # the API's name for them
    in_parts: bool = False

    @property
    def model(self) -> str:
        model = self.fields.get("model")
        return model if isinstance(model, str) else ""

    @property
    def stream(self) -> bool:
        return self.fields.get("stream") is True

    @property
    def last_user(self) -> int | None:
        """Index of the last user message, which is the query of recall; None without one."""
        return last_user_index(self.messages)

    @property
    def in_tool_loop(self) -> bool:
        """Whether the request returns tool results to the model, within one user turn."""
        return bool(self.messages) and self.messages[-1].role in ("tool", "function")

    @property
    def has_history(self) -> bool:
        """Whether turns come before the last user message: the client's own, or those that the provider keeps."""
        last = self.last_user
        return bool(self.follows) or any(not m.is_system for m in self.messages[: last or 0])

    @property
    def output_reserve(self) -> int:
        """Tokens that the request reserves for the answer; 0 if it reserves none."""
        for key in ("max_completion_tokens", "max_output_tokens", "max_tokens"):
            value = self.fields.get(key)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
        return 0

    def with_messages(self, messages: Sequence[ChatMessage]) -> Chat:
        """The same request with other messages."""
        return replace(self, messages=tuple(messages), changed=True)

    def without_messages(self) -> str:
        """The body's text with an empty array in place of its messages, or an empty text where they were a text."""
        if self.messages_span is None:
            return self.body
        start, end = self.messages_span
        nothing = '""' if self.body[start] == '"' else "[]"
        return f"{self.body[:start]}{nothing}{self.body[end:]}"

    def encode(self, model: str | None = None) -> bytes:
        """The body to send: the original bytes where nothing has changed. `model` replaces the model's name."""
        edits: list[tuple[Span, str]] = []
        if self.changed and self.messages_span:
            edits.append((self.messages_span, "[" + ", ".join(m.raw for m in self.messages) + "]"))
        if model is not None and model != self.model and self.model_span:
            edits.append((self.model_span, json.dumps(model)))
        text = self.body
        for (start, end), new in sorted(edits, reverse=True):
            text = text[:start] + new + text[end:]
        return text.encode()


class HasRole(Protocol):
    @property
    def role(self) -> str: ...


def last_user_index(messages: Sequence[HasRole]) -> int | None:
    """The index of the last user message; None without one. What we add stands directly before it."""
    return next((i for i in range(len(messages) - 1, -1, -1) if messages[i].role == "user"), None)


def model_of(fields: Json) -> str:
    """The model that a request names; empty without one. Raises BadRequest for one that is no string."""
    model = fields.get("model", "")
    if not isinstance(model, str):
        raise BadRequest("Invalid type for 'model': expected a string.", code="invalid_type", param="model")
    return model


def rename_model(body: bytes, model: str) -> bytes:
    """Replace the value of `model` in a JSON object; every other byte stays.

    Raises BadRequest for a body that is not a JSON object.
    """
    text, _, spans = parsed(body)
    start, end = spans["model"]
    return f"{text[:start]}{json.dumps(model)}{text[end:]}".encode()


def is_shallow(value: Any, depth: int = DEEPEST_VALUE) -> bool:
    """Whether a value is nested at most `depth` levels deep: later steps may recurse into it."""
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return True
    return depth > 0 and all(is_shallow(item, depth - 1) for item in value)


def parsed(body: bytes) -> tuple[str, Json, dict[str, Span]]:
    """A body's text, its fields, and the spans of their values. Raises BadRequest."""
    if is_costly(body):
        raise BadRequest("The JSON body of the request holds too many values.", code="too_many_values")
    try:
        text = body.decode()
        return text, *object_with_spans(text)
    except (ValueError, RecursionError) as error:
        raise BadRequest(
            f"We could not parse the JSON body of your request: {_reason(error)}.", code="invalid_json"
        ) from error


def _reason(error: Exception) -> str:
    """Why a body is not JSON, without quoting it."""
    match error:
        case JSONDecodeError():
            return f"{error.msg} at line {error.lineno}, column {error.colno}"
        case UnicodeDecodeError():
            return f"it is not UTF-8 at byte {error.start}"
        case RecursionError():
            return "it is nested too deeply"
        case _:
            return "a number in it is out of range"
