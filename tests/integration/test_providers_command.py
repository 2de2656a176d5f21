"""manage.py providers: where a model's name goes, and why."""

from __future__ import annotations

from io import StringIO

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError


def said(*arguments: str) -> str:
    out = StringIO()
    call_command("providers", *arguments, stdout=out)
    return out.getvalue()


def test_the_target_of_a_name_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RSV_OPENAI_BASE_URL", "https://gateway.example.com/v1")
    answer = said("qwen/qwen3-32b")
    assert "qwen/qwen3-32b goes to openai at https://gateway.example.com/v1" in answer
    assert "default provider" in answer


def test_all_providers_are_listed_without_their_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTRAL_API_KEY", "sk-very-secret")
    answer = said()
    assert "openai (default): " in answer
    assert "mistral: https://api.mistral.ai/v1, key set" in answer
    assert "secret" not in answer


def test_a_wrong_configuration_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RSV_OPENAI_BASE_URL", "gateway")
    with pytest.raises(CommandError, match="RSV_OPENAI_BASE_URL: write an address"):
        said()
