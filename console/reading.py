"""A stored message -> the parts that a page shows: texts, links to images, tool calls and their results. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django.utils.safestring import SafeString

from console import safe_text
from conversations.shapes import RESULTS, is_run, objects, texts_of

LONG_CHARACTERS = 3_000
LARGEST_PAYLOAD = 200_000  # bytes; of larger messages other pages show only the text
LARGEST_JSON = 1_000_000  # characters; long texts in larger JSON are cut short
SHORT = 200


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of a message. `kind` is text, link, note, or fold (a title over a text that is opened)."""

    kind: str
    html: SafeString | str = ""
    title: str = ""
    url: str = ""
    long: bool = False


def parts(role: str, content: str, payload: str) -> list[Part]:
    """What to show of a message with this plain text and this JSON."""
    message = json_object(payload)
    if role in ("tool", "function"):
        return list(_results(message, content or payload))
    if is_run(message):
        found = [part for item in objects(message["output"]) for part in _item(item)]
    else:
        found = [*_reasoning(message), *_content(message.get("content"), content), *_calls(message)]
    return found or [text(content)]


def text(content: str) -> Part:
    """A text with its Markdown laid out."""
    return Part("text", safe_text.formatted(content), long=len(content) > LONG_CHARACTERS)


def fold(title: str, content: str) -> Part:
    """A folded text, for details that most readers skip."""
    return Part("fold", safe_text.plain(pretty(content)), title=safe_text.shown(title))


def pretty(content: str) -> str:
    """JSON indented, with its long texts cut short where it is very large; anything else as it is."""
    if content[:1] not in ("{", "["):
        return content
    try:
        value = json.loads(content)
    except ValueError:
        return content
    return json.dumps(_cut(value) if len(content) > LARGEST_JSON else value, indent=2, ensure_ascii=False)


def _cut(value: Any) -> Any:
    match value:
        case str() if len(value) > 5 * SHORT:
            return f"{value[:SHORT]}… ({len(value):,} characters)"
        case list():
            return [_cut(each) for each in value]
        case dict():
            return {key: _cut(each) for key, each in value.items()}
        case _:
            return value


def json_object(payload: str) -> Mapping[str, Any]:
    try:
        message = json.loads(payload)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}


def _results(message: Mapping[str, Any], content: str) -> Iterator[Part]:
    """What tools returned: in one message each, or all in one."""
    results = [part for part in objects(message.get("content")) if part.get("type") in RESULTS]
    for result in results:
        yield fold(
            f"result {result.get('tool_use_id') or ''}".strip(), "\n".join(texts_of({"content": result.get("content")}))
        )
    if not results:
        named = message.get("name") or message.get("tool_call_id") or message.get("call_id") or ""
        yield fold(f"result {named}".strip(), content)


def _item(item: Mapping[str, Any]) -> Iterator[Part]:
    """One of the items that the model said through Responses."""
    match item.get("type", "message"):
        case "message":
            yield from _content(item.get("content"), "\n".join(texts_of(item)))
        case "reasoning":
            thoughts = texts_of({"content": [*objects(item.get("summary")), *objects(item.get("content"))]})
            if any(thoughts):
                yield fold("reasoning", "\n".join(thoughts))
        case "function_call" | "custom_tool_call":
            yield _call(item)
        case _:
            yield _attachment(item)


def _reasoning(message: Mapping[str, Any]) -> Iterator[Part]:
    for key in ("reasoning_content", "reasoning"):
        if isinstance(thought := message.get(key), str) and thought.strip():
            yield fold("reasoning", thought)
            return


def _content(given: object, content: str) -> Iterator[Part]:
    if not isinstance(given, list):
        if content.strip():
            yield text(content)
        return
    for part in given:
        if not isinstance(part, dict):
            continue
        words = part.get("text") or part.get("refusal")
        match part.get("type"):
            case "tool_use":
                yield _call(part)
            case "thinking" if isinstance(thought := part.get("thinking"), str):
                yield fold("reasoning", thought)
            case kind if kind in RESULTS:
                yield from _results({"content": [part]}, "")
            case _:
                yield text(words) if isinstance(words, str) else _attachment(part)


def _attachment(part: Mapping[str, Any]) -> Part:
    kind = str(part.get("type") or "attachment")
    name = kind.removesuffix("_url").removeprefix("input_")
    for key in (kind, "image_url", "file_url", "source"):
        body = part.get(key)
        if address := safe_text.web_address(body.get("url") if isinstance(body, dict) else body):
            return Part("link", title=safe_text.shown(f"{name}: {address[:120]}"), url=address)
    size = len(json.dumps(part))
    return Part("note", title=safe_text.shown(f"{name}, {size:,} bytes in the message"))


def _calls(message: Mapping[str, Any]) -> Iterator[Part]:
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        if isinstance(call, dict):
            yield _call(call.get("function") or call.get("custom"))
    if isinstance(function := message.get("function_call"), dict):
        yield _call(function)


def _call(function: object) -> Part:
    body = function if isinstance(function, dict) else {}
    given = body.get("arguments", body.get("input", ""))
    return fold(f"calls {body.get('name') or 'a tool'}", given if isinstance(given, str) else json.dumps(given))
