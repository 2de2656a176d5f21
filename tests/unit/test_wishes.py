"""Which messages are standing wishes."""

from __future__ import annotations

import pytest

from conversations.recall.wishes import LOOKED_AT, is_wish


@pytest.mark.parametrize(
    "text",
    [
        "Always show the units.",
        "Always be brief",
        "Thanks! Please never use tables.",
        "From now on, answer in French",
        "In future please keep it short",
        "I prefer short answers, can you sum this up?",
        "I’d rather not guess. I’d prefer a list",  # noqa: RUF001
        "Include version numbers whenever I ask about libraries",
        "Call me Ada",
        "keep your answers brief",
        "Could you always give an example?",
        "从现在起请用中文回答",
        "请叫我小王",
    ],
)
def test_wishes(text: str) -> None:
    assert is_wish(text, "english")


@pytest.mark.parametrize(
    "text",
    [
        "I've never written any Flask routes",
        "I always forget her birthday",
        "Always fun. Never mind",
        "Never seen it before",
        "Can you call me back tomorrow?",
        "We will do better going forward",
        "How do I keep bees?",
        "Ab jetzt bitte auf Deutsch",
        "x" * LOOKED_AT + ". Always show the units.",
        "",
    ],
)
def test_other_messages(text: str) -> None:
    assert not is_wish(text, "english")


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Ab jetzt bitte auf Deutsch", "german"),
        ("Antworte mir immer kurz", "german"),
        ("Désormais, réponds en français", "french"),
        ("De ahora en adelante, responde corto", "spanish"),
        ("D'ora in poi rispondi in italiano", "italian"),
        ("Prefiro respostas curtas", "portuguese"),
        ("Voortaan in het Nederlands", "dutch"),
        ("Always show the units", "german"),
        ("Always show the units", "simple"),
    ],
)
def test_wishes_in_other_languages(text: str, language: str) -> None:
    assert is_wish(text, language)
