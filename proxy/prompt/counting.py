"""Texts, messages and requests -> tokens. Pure: the tokenizer is passed in.

The counts follow OpenAI's recipe, and are an estimate for everything that is not plain text. Where it errs, it errs
towards too few: a count that is too high would refuse or cut requests that a provider might have answered.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from conversations.shapes import is_run
from conversations.turns import Count as Count  # re-exported
from proxy.prompt.chat import Chat, ChatMessage, Json

DEFINITIONS = ("response_format", "text", "functions", "tools")  # the fields of a request that hold some

MESSAGE_OVERHEAD = 4  # three tokens of framing, one for the role
NAME_OVERHEAD = 1
CALL_OVERHEAD = 3
PROPERTY_OVERHEAD = 3
TOOL_OVERHEAD = 10
TOOLS_OVERHEAD = 12
REPLY_PRIMING = 3

LOW_DETAIL_IMAGE = 85
IMAGE = 765
HIGH_DETAIL_IMAGE = 1105
FILE = 1000
NO_MEDIA = frozenset(
    {
        *("text", "refusal", "thinking", "redacted_thinking", "tool_use", "tool_result"),
        *("input_text", "output_text", "reasoning_text", "summary_text"),
    }
)
EARLIER_AUDIO = 250
BASE64_PER_AUDIO_TOKEN = {"wav": 6400, "mp3": 2133}


def message_tokens(payload: Mapping[str, Any], count: Count) -> int:
    """Tokens of one message.

    These are three tokens for the message, one for its role, one more for a name, and its texts, as in
    https://cookbook.openai.com/examples/how_to_count_tokens_with_tiktoken. Names and arguments of tool calls
    count as text, with three tokens for each call; ids do not reach the model. Other content is estimated:

    - an image: 85 in low detail, 1,105 in high, else 765 (the worked examples of
      https://platform.openai.com/docs/guides/images-vision#calculating-costs);
    - audio: one token for 100 ms (https://platform.openai.com/docs/guides/realtime-costs), which is 6,400
      characters of base64 of WAV (24 kHz, 16 bits, mono) or 2,133 of MP3 (128 kbit/s); 250 for an earlier
      answer that is referred to by its id;
    - a file, and a part of an unknown kind: 1,000.
    """
    return MESSAGE_OVERHEAD + sum(map(count, _texts(payload))) + _extras(payload)


def definition_tokens(fields: Json, count: Count) -> int:
    """Tokens of the definitions in a request: tools, functions, the schema of the answer.

    Models are shown type definitions, not JSON: names, types, descriptions and values count as text, plus 3 tokens
    for each property, 10 for each function and 12 if there are any. The recipe is that of `message_tokens`; its
    example of 101 tokens is counted as 100.
    """
    words, properties = _definitions(fields)
    tools = [*objects(fields.get("functions")), *objects(fields.get("tools"))]
    named = sum(map(_is_named, tools))
    marks = PROPERTY_OVERHEAD * properties + TOOL_OVERHEAD * named + (TOOLS_OVERHEAD if named else 0)
    return marks + (count(" ".join(words)) if words else 0)


def request_tokens(chat: Chat, count: Count) -> int:
    """Tokens of a whole request: messages, definitions, and the three that prime the reply."""
    return sum(message_tokens(message.payload, count) for message in chat.messages) + fixed_tokens(chat, count)


def fixed_tokens(chat: Chat, count: Count) -> int:
    """Tokens of all of a request but its messages."""
    instructions = sum(MESSAGE_OVERHEAD + count(text) for text in chat.instructions)
    return instructions + definition_tokens(chat.fields, count) + REPLY_PRIMING


def request_at_most(chat: Chat) -> int:
    """An upper bound of `request_tokens` that needs no tokenizer.

    A token takes at least one byte of text, and a byte of text at least one byte of its JSON. JSON's own marks
    outnumber the tokens that are added for framing.
    """
    start, end = chat.messages_span or (0, 0)
    around = text_at_most(chat.body[:start]) + text_at_most(chat.body[end:])
    return around + sum(map(message_at_most, chat.messages))


def message_at_most(message: ChatMessage) -> int:
    """An upper bound of `message_tokens`."""
    return text_at_most(message.raw) + _media(message.payload)


def text_at_most(text: str) -> int:
    """The bytes of a text: no tokenizer makes more tokens of it."""
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def _extras(payload: Mapping[str, Any]) -> int:
    """Tokens of a message besides its overhead and its texts."""
    name = NAME_OVERHEAD if isinstance(payload.get("name"), str) else 0
    if is_run(payload):
        return _media(payload) + CALL_OVERHEAD * sum("arguments" in item for item in objects(payload["output"]))
    calls = [*objects(payload.get("tool_calls")), payload.get("function_call")]
    calls += [part for part in objects(payload.get("content")) if part.get("type") == "tool_use"]
    return name + CALL_OVERHEAD * sum(isinstance(call, Mapping) for call in calls) + _media(payload)


def _texts(payload: Mapping[str, Any]) -> Iterable[str]:
    """The parts of a message that reach the model as text."""
    content = payload.get("content")
    texts = [content, payload.get("name"), payload.get("refusal")]
    for part in objects(content):
        texts += [part.get("text"), part.get("refusal")]
        texts += [thought.get("text") for thought in objects(part.get("thinking"))]
        if part.get("type") == "tool_use":
            texts += [part.get("name"), json.dumps(part.get("input"))]
        elif part.get("type") == "tool_result":
            texts += _texts(part)
    output = payload.get("output")
    texts += [output, payload.get("arguments"), payload.get("input")]
    for item in objects(output):
        texts += _texts(item) if is_run(payload) else [item.get("text")]
    calls = [call.get(kind) for call in objects(payload.get("tool_calls")) for kind in ("function", "custom")]
    for call in [*calls, payload.get("function_call")]:
        if isinstance(call, Mapping):
            texts += [call.get("name"), call.get("arguments"), call.get("input")]
    return (text for text in texts if isinstance(text, str))


def _media(payload: Mapping[str, Any]) -> int:
    """The estimate for the parts of a message that are not text."""
    if is_run(payload):
        return sum(map(_media, objects(payload["output"])))
    earlier = EARLIER_AUDIO if isinstance(payload.get("audio"), Mapping) else 0
    return earlier + sum(map(_part, objects(payload.get("content"))))


def _part(part: Mapping[str, Any]) -> int:
    match part:
        case {"type": str(kind)} if kind in NO_MEDIA:
            return 0
        case {"type": "image_url", "image_url": {"detail": "low"}}:
            return LOW_DETAIL_IMAGE
        case {"type": "input_image", "detail": "low"}:
            return LOW_DETAIL_IMAGE
        case {"type": "image_url", "image_url": {"detail": "high"}} | {"type": "input_image", "detail": "high"}:
            return HIGH_DETAIL_IMAGE
        case {"type": "image_url" | "input_image" | "image"}:
            return IMAGE
        case {"type": "input_audio", "input_audio": {"data": str(data), **rest}}:
            return -(-len(data) // BASE64_PER_AUDIO_TOKEN["wav" if rest.get("format") == "wav" else "mp3"])
        case _:
            return FILE


def _definitions(fields: Json) -> tuple[list[str], int]:
    """The words of the request's definitions, and the number of their properties.

    Not recursive: clients may nest definitions to any depth.
    """
    words: list[str] = []
    properties = 0
    todo: list[tuple[Any, bool]] = [(fields.get(key), False) for key in DEFINITIONS]
    while todo:
        value, is_map_of_names = todo.pop()
        match value:
            case str():
                words.append(value)
            case list():
                todo += [(item, False) for item in reversed(value)]
            case dict():
                if is_map_of_names:
                    words += value
                    properties += len(value)
                todo += [
                    (item, key in ("properties", "$defs", "definitions") and not is_map_of_names)
                    for key, item in value.items()
                    if is_map_of_names or key != "required"
                ]
    return words, properties


def _is_named(tool: Mapping[str, Any]) -> bool:
    return any(isinstance(part.get("name"), str) for part in (tool, *objects(list(tool.values()))))


def objects(value: Any) -> list[Mapping[str, Any]]:
    """The objects in a list; empty for any other value."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
