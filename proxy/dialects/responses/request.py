"""The body of a request to OpenAI's Responses -> its Chat. Pure.

https://platform.openai.com/docs/api-reference/responses/create

`input` is a text or a list of items. Users' messages and results of tools are turns of their own. What the model said
in one go (thoughts, messages, calls) is a run of items and one turn, as it is one message elsewhere. An item of a type
that is not known here is a result if the type ends like one; otherwise the model said it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from conversations.shapes import role_of
from proxy.errors import BadRequest
from proxy.prompt.chat import Chat, ChatMessage, Json, model_of, parsed
from proxy.prompt.json_spans import Span, element_spans

LONGEST_ROLE = 16  # characters
LONGEST_ID = 200

Item = tuple[Json, Span]


def decode(body: bytes) -> Chat:
    """A request body -> its Chat, which has no messages where the request brings no `input`.

    Raises BadRequest for a body that is no request: not JSON (RFC 8259, UTF-8), not an object, with an empty input or
    one of a wrong type.
    """
    text, fields, spans = parsed(body)
    model_of(fields)
    given = fields.get("input")
    messages: tuple[ChatMessage, ...] = ()
    if isinstance(given, str):
        start, end = spans["input"]
        said = {"role": "user", "content": given}
        messages = (ChatMessage(f'{{"role": "user", "content": {text[start:end]}}}', said),)
    elif isinstance(given, list):
        items = [_checked(item, i) for i, item in enumerate(given)]
        messages = tuple(_turns(text, list(zip(items, element_spans(text, spans["input"][0]), strict=True))))
    elif given is not None:
        raise BadRequest("Invalid type for 'input': expected a string or an array of items.", param="input")
    if given is not None and not given:
        raise BadRequest("'input' must not be empty.", code="empty_array", param="input")
    return Chat(
        text,
        fields,
        messages,
        spans["input"] if messages else None,
        spans.get("model"),
        dialect="responses",
        follows=_follows(fields),
        instructions=instructions(fields),
        messages_field="input",
    )


def instructions(fields: Json) -> tuple[str, ...]:
    """The text that stands in for a system prompt."""
    given = fields.get("instructions")
    return (given,) if isinstance(given, str) else ()


def _follows(fields: Json) -> str:
    """The id of the answer, or of the conversation, that the request continues."""
    conversation = fields.get("conversation")
    named = conversation.get("id") if isinstance(conversation, dict) else conversation
    for id_ in (fields.get("previous_response_id"), named):
        if isinstance(id_, str) and 0 < len(id_) <= LONGEST_ID:
            return id_
    return ""


def _turns(text: str, items: list[Item]) -> Iterator[ChatMessage]:
    for role, group in groupby(items, key=lambda item: role_of(item[0])):
        if role == "assistant":
            run = list(group)
            begin, end = run[0][1][0], run[-1][1][1]
            yield ChatMessage(text[begin:end], {"role": role, "output": [item for item, _ in run]}, role, is_run=True)
        else:
            yield from (ChatMessage(text[start:end], item, role) for item, (start, end) in group)


def _checked(item: Any, index: int) -> Json:
    where = f"input[{index}]"
    if not isinstance(item, dict):
        raise BadRequest(f"Invalid type for '{where}': expected an object.", code="invalid_type", param=where)
    role = item.get("role", "" if isinstance(item.get("type"), str) else None)
    # OpenAI adds roles and types of items: it refuses unknown ones itself.
    if not isinstance(role, str) or len(role) > LONGEST_ROLE or not role_of(item).isprintable() or not role_of(item):
        raise BadRequest(
            f"Invalid value for '{where}': expected an item with a role, such as user, or a type.",
            code="invalid_value",
            param=where,
        )
    return item
