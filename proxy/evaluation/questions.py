"""A file of conversations and questions -> values, or the first mistake and its place. Pure.

    {"conversations": [{"id", "messages": [{"id", "role", "name", "content", "created_at"}],
                        "questions": [{"id", "text", "category", "evidence": [ids of messages]}]}]}

`name` and `category` are optional. Other fields are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

ROLES = ("user", "assistant", "system", "developer", "tool", "function")


class WrongFile(Exception):
    """One sentence: the place of the mistake, and what to write instead."""


@dataclass(frozen=True, slots=True)
class Said:
    """A message of a conversation. Messages are imported in the order of the file."""

    id: str
    role: str
    name: str
    content: str
    created: datetime  # aware


@dataclass(frozen=True, slots=True)
class Question:
    id: str
    text: str
    category: str
    evidence: frozenset[str]  # ids of messages, at least one


@dataclass(frozen=True, slots=True)
class Conversation:
    id: str
    messages: tuple[Said, ...]
    questions: tuple[Question, ...]


def read(text: str) -> tuple[Conversation, ...]:
    """The conversations of a file, in its order. Raises WrongFile."""
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as error:
        raise WrongFile(f"line {error.lineno}, column {error.colno}: this is not JSON ({error.msg}).") from None
    except RecursionError:
        raise WrongFile("line 1: this is nested too deeply.") from None
    conversations = tuple(
        _conversation(value, f"conversations[{at}]") for at, value in enumerate(_list(fields, "conversations", ""))
    )
    _once((conversation.id for conversation in conversations), "conversations")
    if not any(conversation.questions for conversation in conversations):
        raise WrongFile("conversations: none has a question, write at least one.")
    return conversations


def _conversation(value: Any, where: str) -> Conversation:
    messages = tuple(
        _said(message, f"{where}.messages[{at}]") for at, message in enumerate(_list(value, "messages", where))
    )
    ids = _once((message.id for message in messages), f"{where}.messages")
    questions = tuple(
        _question(question, ids, f"{where}.questions[{at}]")
        for at, question in enumerate(_list(value, "questions", where))
    )
    _once((question.id for question in questions), f"{where}.questions")
    return Conversation(_text(value, "id", where), messages, questions)


def _said(value: Any, where: str) -> Said:
    role = _text(value, "role", where)
    if role not in ROLES:
        raise WrongFile(f"{where}.role: {role!r} is not a role, write one of {', '.join(ROLES)}.")
    return Said(
        id=_text(value, "id", where),
        role=role,
        name=_text(value, "name", where, default=""),
        content=_text(value, "content", where, empty=True),
        created=_time(_text(value, "created_at", where), f"{where}.created_at"),
    )


def _question(value: Any, messages: set[str], where: str) -> Question:
    evidence = _list(value, "evidence", where)
    if not evidence:
        raise WrongFile(f"{where}.evidence: it is empty, write the ids of the messages that answer the question.")
    for at, wanted in enumerate(evidence):
        if not isinstance(wanted, str) or wanted not in messages:
            raise WrongFile(f"{where}.evidence[{at}]: {_shown(wanted)} is not a message of this conversation.")
    return Question(
        id=_text(value, "id", where),
        text=_text(value, "text", where, empty=True),
        category=_text(value, "category", where, default="") or "other",
        evidence=frozenset(evidence),
    )


def _time(text: str, where: str) -> datetime:
    """A time without an offset is UTC."""
    try:
        time = datetime.fromisoformat(text)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise WrongFile(f"{where}: {_shown(text)} is not a time, write one such as 2026-01-31T12:00:00Z.") from None


def _list(value: Any, key: str, where: str) -> list[Any]:
    found = _field(value, key, where)
    if not isinstance(found, list):
        raise WrongFile(f"{_path(where, key)}: this is not a list, write [...].")
    return found


def _text(value: Any, key: str, where: str, *, default: str | None = None, empty: bool = False) -> str:
    found = _field(value, key, where) if default is None else _fields(value, where).get(key) or default
    if not isinstance(found, str):
        raise WrongFile(f"{_path(where, key)}: {_shown(found)} is not text, write it in quotation marks.")
    if not found and default is None and not empty:
        raise WrongFile(f"{_path(where, key)}: it is empty.")
    return found


def _field(value: Any, key: str, where: str) -> Any:
    fields = _fields(value, where)
    if key not in fields:
        raise WrongFile(f"{_path(where, key)}: it is missing.")
    return fields[key]


def _fields(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise WrongFile(f"{where or 'line 1'}: this is not an object, write {{...}}.")
    return value


def _once(ids: Any, where: str) -> set[str]:
    seen: set[str] = set()
    for at, id_ in enumerate(ids):
        if id_ in seen:
            raise WrongFile(f"{where}[{at}].id: {_shown(id_)} is used twice, write another one.")
        seen.add(id_)
    return seen


def _path(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _shown(value: Any) -> str:
    return json.dumps(value)[:80]
