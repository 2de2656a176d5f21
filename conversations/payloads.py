"""A message's JSON text as it is stored: without the text that its content holds anyway.

Where the content's JSON string occurs in the payload, a mark takes its place, one for each way to spell a string. Marks
are control characters, which JSON text never holds. Before the content most payloads begin with the same words, so
another mark takes the place of those. A payload without both has three bytes, or as many as its other fields take.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from django.db.models import Model, TextField
from django.db.models.query_utils import DeferredAttribute

SHORTEST = 100  # characters; a mark in place of a shorter content saves little


def _as_go(text: str) -> str:
    """As Go spells it, in which Ollama is written."""
    spelt = json.dumps(text, ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        spelt = spelt.replace(character, f"\\u{ord(character):04x}")
    return spelt


_SPELLINGS: dict[str, Callable[[str], str]] = {
    "\x01": lambda text: json.dumps(text, ensure_ascii=False),
    "\x02": lambda text: json.dumps(text, ensure_ascii=True),
    "\x03": _as_go,
}

# The beginning of a payload whose content is marked.
OPENINGS = {
    "\x04": '{"role": "user", "content": ',
    "\x05": '{"role": "assistant", "content": ',
    "\x06": '{"role":"user","content":',
    "\x07": '{"role":"assistant","content":',
}
_OPENING_MARKS = {opening: mark for mark, opening in OPENINGS.items()}

CONTENT_MARKS = "".join(_SPELLINGS)
MARKS = CONTENT_MARKS + "".join(OPENINGS)


def without_content(payload: str, content: str) -> str:
    """The payload to store beside its message's content. As it is, if the content does not occur in it."""
    if len(content) < SHORTEST or any(mark in payload for mark in MARKS):
        return payload
    for mark, spell in _SPELLINGS.items():
        spelt = spell(content)
        before, found, after = payload.partition(spelt)
        if found:
            return f"{_OPENING_MARKS.get(before, before)}{mark}{after}"
    return payload


def with_content(stored: str, content: str) -> str:
    """The payload of which without_content() made `stored`."""
    for mark, spell in _SPELLINGS.items():
        if mark in stored:
            opening = OPENINGS.get(stored[0], stored[0])
            return (opening + stored[1:]).replace(mark, spell(content), 1)
    return stored


class _Whole(DeferredAttribute):
    """The payload of a row as the API sent it, whether it was read or is about to be written."""

    def __get__(self, instance: Model | None, cls: type[Model] | None = None) -> Any:
        name = self.field.attname
        if instance is None or name not in instance.__dict__:
            found = super().__get__(instance, cls)
        else:
            found = instance.__dict__[name]
        return with_content(found, instance.content) if isinstance(found, str) else found  # type: ignore[union-attr]

    def __set__(self, instance: Model, value: Any) -> None:
        instance.__dict__[self.field.attname] = value


class PayloadField(TextField):  # type: ignore[type-arg]  # generic in its stubs only
    """Of a row with a `content`. Its attribute is the whole payload; queries see what is stored."""

    descriptor_class = _Whole

    def pre_save(self, model_instance: Any, add: bool) -> Any:
        return without_content(super().pre_save(model_instance, add), model_instance.content)
