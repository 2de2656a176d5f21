"""Pure: which requests no person made: titles, tags, follow-ups, completions, summaries, polls."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from proxy.prompt.chat import Chat

HEAD, TAIL = 4_000, 1_000  # characters of a text that are matched: texts come from outside, and have any length

Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule holds for a request if all its conditions do.

    `user` and `system` match from the beginning of the last user message and of the system prompt; `user_contains` and
    `system_contains` match anywhere in the part that is looked at. `models` and the values of `headers` are patterns
    with * and ?.
    """

    name: str
    models: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    user: re.Pattern[str] | None = None
    user_contains: re.Pattern[str] | None = None
    system: re.Pattern[str] | None = None
    system_contains: re.Pattern[str] | None = None

    def holds(self, asked: Asked) -> bool:
        return (
            (not self.user or bool(self.user.match(asked.user)))
            and (not self.system or bool(self.system.match(asked.system)))
            and (not self.user_contains or bool(self.user_contains.search(asked.user)))
            and (not self.system_contains or bool(self.system_contains.search(asked.system)))
            and (not self.models or any(fnmatchcase(asked.model, pattern) for pattern in self.models))
            and all(asked.sends(name, pattern) for name, pattern in self.headers)
        )


@dataclass(frozen=True, slots=True)
class Asked:
    """What of a request the rules look at: its texts in lower case, of long ones their beginning and their end."""

    model: str
    headers: Headers
    system: str
    user: str

    @classmethod
    def of(cls, chat: Chat, headers: Headers) -> Asked:
        last = chat.last_user
        prompts = [_text(message.payload) for message in chat.messages if message.is_system]
        return cls(
            model=chat.model,
            headers=headers,
            system=_excerpt("\n".join([*chat.instructions, *prompts])),
            user="" if last is None else _excerpt(_text(chat.messages[last].payload)),
        )

    def sends(self, name: str, pattern: str) -> bool:
        """Whether a header of this name (in lower case) has a value like the pattern."""
        return any(
            given.decode("latin-1").lower() == name and fnmatchcase(value.decode("latin-1").strip(), pattern)
            for given, value in self.headers
        )


def rule_for(rules: Iterable[Rule], asked: Asked) -> str:
    """The name of the first rule that holds for a request; "" if none does."""
    return next((rule.name for rule in rules if rule.holds(asked)), "")


def _text(payload: Mapping[str, Any]) -> str:
    content = payload.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = (part.get("text") for part in parts if isinstance(part, dict))
    return "\n".join(text for text in texts if isinstance(text, str))


def _excerpt(text: str) -> str:
    excerpt = text if len(text) <= HEAD + TAIL else f"{text[:HEAD]}\n{text[-TAIL:]}"
    return excerpt.lstrip().lower()  # an expression without capitals need not ignore case, which is slow
