"""Which queries are questions, and which ask what the assistant said."""

from __future__ import annotations

import pytest

from conversations.recall.phrasing import asks_what_the_assistant_said, is_question


@pytest.mark.parametrize(
    "text",
    [
        "Who came?",
        "I met Ann. Do you remember her? I do.",
        "when did caroline go",
        "What is my name",
        "please summarize our talks about bees",
        "Tell me about the trip",
        "Did we agree on a price",
        "wann war das",
        "我的猫叫什么",
        "猫はどこですか",
        "我今天很累",
        "spare key",
    ],
)
def test_questions_become_queries(text: str) -> None:
    assert is_question(text)


@pytest.mark.parametrize(
    "text",
    [
        "I can't sleep lately.",
        "When I was young, I had a dog.",
        "What a day!",
        "Had a great time at the lake",
        "Write a toast for my sister",
        "def area(r): return 3.14 * r * r",
        "I am tired",
        "Thanks, Ann!",
    ],
)
def test_statements_and_requests(text: str) -> None:
    assert not is_question(text)


@pytest.mark.parametrize(
    ("text", "asks"),
    [
        ("What did you recommend for the trip?", True),
        ("Which tools have you already mentioned?", True),
        ("What was your advice on bees?", True),
        ("你建议我做什么", True),
        ("What did I tell you about bees?", False),
        ("What would you suggest?", False),
    ],
)
def test_questions_about_what_the_assistant_said(text: str, asks: bool) -> None:
    assert asks_what_the_assistant_said(text) == asks
