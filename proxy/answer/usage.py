"""A provider's token counts, under any names -> OpenAI's names. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.prompt.chat import Json, is_shallow

# OpenAI's name, then those of Anthropic and Gemini.
_PROMPT = ("prompt_tokens", "input_tokens", "promptTokenCount")
_COMPLETION = ("completion_tokens", "output_tokens", "candidatesTokenCount")
_CACHED = ("prompt_cache_hit_tokens", "cache_read_input_tokens", "cachedContentTokenCount", "cached_tokens")
_OUTSIDE_PROMPT = ("cache_read_input_tokens", "cache_creation_input_tokens")  # Anthropic counts these apart


def usage_in(fields: Mapping[str, Any]) -> Json | None:
    """The usage of an answer or of a chunk: the provider's own object, with `prompt_tokens`, `completion_tokens` and
    `prompt_tokens_details.cached_tokens` added where it has other names for them. None without usage.
    """
    groq = fields.get("x_groq")
    places = (fields.get("usage"), groq.get("usage") if isinstance(groq, dict) else None, fields.get("usageMetadata"))
    usage = next((place for place in places if isinstance(place, dict) and place and is_shallow(place)), None)
    if usage is None:
        return None
    usage = dict(usage)
    if "prompt_tokens" not in usage and (prompt := _first(usage, _PROMPT)) is not None:
        usage["prompt_tokens"] = prompt + sum(_first(usage, (name,)) or 0 for name in _OUTSIDE_PROMPT)
    if "completion_tokens" not in usage and (completion := _first(usage, _COMPLETION)) is not None:
        usage["completion_tokens"] = completion
    details = usage.get("input_tokens_details")  # of OpenAI's Responses
    cached = _first(usage, _CACHED) or _first(details if isinstance(details, dict) else {}, _CACHED)
    if not isinstance(usage.get("prompt_tokens_details"), dict) and cached:
        usage["prompt_tokens_details"] = {"cached_tokens": cached}
    return usage


def _first(usage: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    return next((value for name in names if type(value := usage.get(name)) is int and 0 <= value < 2**31), None)
