"""The providers that need no configuration."""

from __future__ import annotations

from typing import NamedTuple


class BuiltIn(NamedTuple):
    base_url: str
    url_env: str  # the environment variable that replaces the base URL
    key_env: str
    patterns: tuple[str, ...]  # of model names
    catalogue: str | None  # the provider's name in genai-prices


BUILT_IN = {
    "openai": BuiltIn("https://api.openai.com/v1", "RSV_OPENAI_BASE_URL", "OPENAI_API_KEY", (), "openai"),
    "mistral": BuiltIn(
        "https://api.mistral.ai/v1",
        "RSV_MISTRAL_BASE_URL",
        "MISTRAL_API_KEY",
        ("mistral-*", "ministral-*", "codestral*", "devstral*", "magistral*", "open-mi*"),
        "mistral",
    ),
    "gemini": BuiltIn(
        "https://generativelanguage.googleapis.com/v1beta/openai",
        "RSV_GEMINI_BASE_URL",
        "GEMINI_API_KEY",
        ("gemini-*", "models/gemini-*"),
        "google",
    ),
    "ollama": BuiltIn(
        "http://localhost:11434/v1",
        "RSV_OLLAMA_BASE_URL",
        "OLLAMA_API_KEY",
        ("llama*", "qwen*", "gemma*", "phi*"),
        None,
    ),
}
