"""The providers that need no configuration."""

from __future__ import annotations

from typing import NamedTuple

ALL_DIALECTS = ("chat_completions", "responses", "messages")


class BuiltIn(NamedTuple):
    base_url: str
    url_env: str  # the environment variable that replaces the base URL
    key_env: str
    patterns: tuple[str, ...]  # of model names
    catalogue: str | None  # the provider's name in genai-prices
    dialects: tuple[str, ...]  # the APIs that it speaks


BUILT_IN = {
    "openai": BuiltIn(
        "https://api.openai.com/v1",
        "RSV_OPENAI_BASE_URL",
        "OPENAI_API_KEY",
        (),
        "openai",
        ("chat_completions", "responses"),
    ),
    "anthropic": BuiltIn(
        "https://api.anthropic.com/v1",
        "RSV_ANTHROPIC_BASE_URL",
        "ANTHROPIC_API_KEY",
        ("claude-*",),
        "anthropic",
        ("chat_completions", "messages"),
    ),
    "mistral": BuiltIn(
        "https://api.mistral.ai/v1",
        "RSV_MISTRAL_BASE_URL",
        "MISTRAL_API_KEY",
        ("mistral-*", "ministral-*", "codestral*", "devstral*", "magistral*", "open-mi*"),
        "mistral",
        ("chat_completions",),
    ),
    "gemini": BuiltIn(
        "https://generativelanguage.googleapis.com/v1beta/openai",
        "RSV_GEMINI_BASE_URL",
        "GEMINI_API_KEY",
        ("gemini-*", "models/gemini-*"),
        "google",
        ("chat_completions",),
    ),
    "ollama": BuiltIn(
        "http://localhost:11434/v1",
        "RSV_OLLAMA_BASE_URL",
        "OLLAMA_API_KEY",
        ("llama*", "qwen*", "gemma*", "phi*"),
        None,
        ALL_DIALECTS,
    ),
}
