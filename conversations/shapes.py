"""Pure: the shapes in which APIs write a turn -> who speaks, and what it holds: texts, calls of tools, attachments.

- Chat completions: a message with `role`, `content` (a text or parts) and `tool_calls`.
- Anthropic's Messages: a message whose content has parts for calls (`tool_use`) and, in a user's message, for their
  results (`tool_result`).
- OpenAI's Responses: an item. What the model said in one go is a run of items (reasoning, messages, calls), which is
  one turn here: `{"role": "assistant", "output": [item, …]}`.

The same words and calls come out the same, whichever API they came through: a conversation may go on through another.
Values are of any type: clients and providers send what they like.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from conversations.tool_marks import without_marked

Payload = Mapping[str, Any]

RESULTS = ("tool_result", "tool_search_tool_result")
WORDS = {"text", "refusal", "thinking"}  # content parts with one of these keys are words
# No attachments: what the model thought, which clients leave out, and calls, which are told apart.
NOT_ATTACHED = {"redacted_thinking", "tool_use", "reasoning", "message", "function_call", "custom_tool_call"}
_CHAT_COMPLETIONS, _RESPONSES, _MESSAGES = (frozenset({name}) for name in ("chat_completions", "responses", "messages"))
VOLATILE = {"id", "status", "cache_control"}  # fields that differ between two copies of an item


def objects(value: Any) -> list[dict[str, Any]]:
    """The objects in a list, and none if the value is not a list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def is_run(payload: Payload) -> bool:
    """Whether a turn is a run of Responses items."""
    return payload.get("role") == "assistant" and isinstance(payload.get("output"), list)


def role_of(payload: Payload) -> str:
    """Who speaks: user, assistant, tool, or any other role that the message names; empty if that cannot be told.

    A user's message in Anthropic's shape that brings results alone is the tools'.
    """
    role, kind = payload.get("role"), payload.get("type")
    if role == "user" and any(part.get("type") in RESULTS for part in objects(payload.get("content"))):
        return "user" if _says_more_than_results(payload["content"]) else "tool"
    if isinstance(role, str) or not isinstance(kind, str):
        return str(role or "")
    return "tool" if kind.endswith(("_output", "_response")) else "assistant"


def _says_more_than_results(content: list[Any]) -> bool:
    for part in content:
        if not isinstance(part, dict):
            return True
        text = part.get("text")
        if part.get("type") not in RESULTS and not (isinstance(text, str) and not without_marked(text).strip()):
            return True
    return False


def apis_of(payload: Payload) -> frozenset[str]:
    """The dialects that write a turn in this shape."""
    if is_run(payload) or "role" not in payload:
        return _RESPONSES
    if "tool_calls" in payload or payload["role"] in ("tool", "function"):
        return _CHAT_COMPLETIONS
    kinds = {str(part.get("type")) for part in objects(payload.get("content"))}
    if kinds & {*RESULTS, "tool_use"}:
        return _MESSAGES
    if any(kind.startswith(("input_", "output_")) and kind != "input_audio" for kind in kinds):
        return _RESPONSES
    return _CHAT_COMPLETIONS | _MESSAGES if kinds == {"text"} else _CHAT_COMPLETIONS | _MESSAGES | _RESPONSES


def in_words(payload: Payload) -> str | None:
    """A turn's JSON text in the shape that every dialect reads; None for one that holds more than words."""
    if role_of(payload) not in ("user", "assistant") or calls_of(payload) or attachments_of(payload):
        return None
    return json.dumps({"role": role_of(payload), "content": "\n".join(texts_of(payload))}, ensure_ascii=False)


def texts_of(payload: Payload) -> list[str]:
    """The texts of a turn, in order: of its messages, or else its refusal, or the transcript of its audio; of results,
    theirs.
    """
    if is_run(payload):
        messages = (item for item in objects(payload["output"]) if item.get("type", "message") == "message")
        return [text for message in messages for text in _texts_in(message.get("content"))]
    content = payload.get("content", payload.get("output"))
    if role_of(payload) == "tool":
        results = [part for part in objects(content) if part.get("type") in RESULTS]
        if results:
            return [text for result in results for text in _texts_in(result.get("content"))]
    texts = _texts_in(content)
    if not any(texts) and isinstance(refusal := payload.get("refusal"), str):
        texts = [refusal]
    audio = payload.get("audio")
    if not any(texts) and isinstance(audio, dict) and isinstance(transcript := audio.get("transcript"), str):
        texts = [transcript]
    return texts


def _texts_in(content: Any) -> list[str]:
    parts = content if isinstance(content, list) else [content]
    return [text for part in parts if isinstance(text := _part_text(part), str)]


def _part_text(part: Any) -> Any:
    """The text of a content part; some clients write a string in its place."""
    return (part.get("text") or part.get("refusal")) if isinstance(part, dict) else part


def attachments_of(payload: Payload) -> list[Any]:
    """What a turn holds besides words, thoughts and calls: values that are equal where a reader sees no difference."""
    if is_run(payload):
        items = objects(payload["output"])
        others = [item for item in items if item.get("type", "message") != "message"]
        parts = [*others, *(part for item in items for part in objects(item.get("content")))]
        # A model's thoughts and messages have been looked into; a reference says nothing of its own.
        return [_settled(part) for part in parts if part.get("type") != "item_reference" and _is_attached(part)]
    content = payload.get("content", payload.get("output"))
    if isinstance(content, int | float | dict):  # of a type that no API names: it counts as one part
        return [{"content": content}]
    parts = objects(content)
    if role_of(payload) == "tool" and any(part.get("type") in RESULTS for part in parts):
        parts = [inner for part in parts for inner in objects(part.get("content"))]
    return [_settled(part) if "cache_control" in part else part for part in parts if _is_attached(part)]


def _is_attached(part: Mapping[str, Any]) -> bool:
    return part.get("type") not in NOT_ATTACHED and WORDS.isdisjoint(part)


def _settled(part: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in part.items() if key not in VOLATILE}


def calls_of(payload: Payload) -> list[Any]:
    """The calls of tools in a turn as values that are equal where the calls are, whatever their ids."""
    calls = [_call(call) for call in objects(payload.get("tool_calls"))]
    for part in objects(payload.get("output") if is_run(payload) else payload.get("content")):
        match part:
            case {"type": "function_call", "name": name, "arguments": str(arguments)}:
                calls.append({"name": name, "arguments": _spelt_alike(arguments)})
            case {"type": "custom_tool_call", "name": name, "input": given}:
                calls.append({"name": name, "input": given})
            case {"type": "tool_use", "name": name}:
                calls.append({"name": name, "arguments": json.dumps(part.get("input"), sort_keys=True)})
    return calls


def calls_in(raw: str) -> list[Any]:
    """The calls of tools in a turn's JSON text, as calls_of() gives them; none in what is no object."""
    if not any(mark in raw for mark in ('"tool_calls"', '"function_call"', '"custom_tool_call"', '"tool_use"')):
        return []
    payload = json.loads(raw)
    return calls_of(payload) if isinstance(payload, dict) else []


def _call(call: Mapping[str, Any]) -> Any:
    function = call.get("function")
    body = function if isinstance(function, dict) else call.get("custom")
    if isinstance(body, dict) and isinstance(arguments := body.get("arguments"), str):
        body = body | {"arguments": _spelt_alike(arguments)}
    return body


def _spelt_alike(arguments: str) -> str:
    """JSON text in one canonical spelling; any other text unchanged."""
    try:
        return json.dumps(json.loads(arguments), sort_keys=True)
    except (ValueError, RecursionError):
        return arguments


def ids_called(payload: Payload) -> list[str]:
    """The ids of the calls in a turn, by which results name them."""
    called = [call.get("id") for call in objects(payload.get("tool_calls"))]
    if is_run(payload):
        called += [item.get("call_id") for item in objects(payload["output"])]
    called += [part.get("id") for part in objects(payload.get("content")) if part.get("type") == "tool_use"]
    return [id_ for id_ in called if isinstance(id_, str)]


def ids_answered(payload: Payload) -> list[str]:
    """The ids of the calls whose results a turn brings."""
    answered = [payload.get("tool_call_id"), payload.get("call_id")]
    answered += [part.get("tool_use_id") for part in objects(payload.get("content"))]
    return [id_ for id_ in answered if isinstance(id_, str)]


def references_in(raw: str) -> list[str]:
    """The ids that stand in a turn's JSON text for all that a model said; none for a turn that says anything itself."""
    payload = json.loads(raw) if '"item_reference"' in raw else None
    if not isinstance(payload, dict) or not is_run(payload):
        return []
    items = [item for item in objects(payload["output"]) if item.get("type") != "reasoning"]
    ids = [item.get("id") for item in items if item.get("type") == "item_reference"]
    return [id_ for id_ in ids if isinstance(id_, str)] if len(ids) == len(items) else []
