"""proxy/evaluation/questions.py: a file is read, or refused with the place of its first mistake."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from proxy.evaluation.questions import WrongFile, read


def good() -> dict[str, Any]:
    return {
        "conversations": [
            {
                "id": "a",
                "messages": [
                    {
                        "id": "m1",
                        "role": "user",
                        "name": "Ada",
                        "content": "I keep bees.",
                        "created_at": "2026-01-31T12:00:00Z",
                        "session": 1,
                    },
                    {"id": "m2", "role": "assistant", "content": "", "created_at": "2026-01-31T14:00:00+02:00"},
                ],
                "questions": [{"id": "q1", "text": "What does Ada keep?", "category": "pets", "evidence": ["m1"]}],
            }
        ]
    }


def test_a_valid_file_is_read_completely() -> None:
    (conversation,) = read(json.dumps(good()))
    first, second = conversation.messages
    assert (first.id, first.role, first.name, first.content) == ("m1", "user", "Ada", "I keep bees.")
    assert first.created == second.created == datetime(2026, 1, 31, 12, tzinfo=UTC)
    (question,) = conversation.questions
    assert (question.text, question.category, question.evidence) == ("What does Ada keep?", "pets", frozenset({"m1"}))


def test_a_question_without_a_category_is_other() -> None:
    file = good()
    del file["conversations"][0]["questions"][0]["category"]
    assert read(json.dumps(file))[0].questions[0].category == "other"


def conversation(change: Callable[[dict[str, Any]], object]) -> str:
    file = good()
    change(file["conversations"][0])
    return json.dumps(file)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"conversations":\n  [}', "line 2, column 4: this is not JSON"),
        ("[" * 100_000, "line 1: this is nested too deeply."),
        ("[]", "line 1: this is not an object"),
        ("{}", "conversations: it is missing."),
        ('{"conversations": {}}', "conversations: this is not a list"),
        ('{"conversations": [7]}', r"conversations\[0\]: this is not an object"),
        ('{"conversations": []}', "conversations: none has a question"),
        (conversation(lambda c: c.pop("messages")), r"conversations\[0\]\.messages: it is missing"),
        (conversation(lambda c: c["messages"][1].pop("id")), r"messages\[1\]\.id: it is missing"),
        (conversation(lambda c: c["messages"][1].update(id=2)), r"messages\[1\]\.id: 2 is not text"),
        (conversation(lambda c: c["messages"][1].update(id="")), r"messages\[1\]\.id: it is empty"),
        (conversation(lambda c: c["messages"][1].update(id="m1")), r'messages\[1\]\.id: "m1" is used twice'),
        (conversation(lambda c: c["messages"][1].update(role="bot")), r"messages\[1\]\.role: 'bot' is not a role"),
        (conversation(lambda c: c["messages"][1].update(name=7)), r"messages\[1\]\.name: 7 is not text"),
        (conversation(lambda c: c["messages"][1].update(content=None)), r"messages\[1\]\.content: null is not text"),
        (conversation(lambda c: c["messages"][1].update(created_at="soon")), r'created_at: "soon" is not a time'),
        (conversation(lambda c: c["questions"][0].update(evidence=[])), r"questions\[0\]\.evidence: it is empty"),
        (conversation(lambda c: c["questions"][0].update(evidence=["m3"])), r'evidence\[0\]: "m3" is not a message'),
        (
            conversation(lambda c: c["questions"][0].update(evidence=[["m1"]])),
            r"evidence\[0\]: \[\"m1\"\] is not a message",
        ),
        (conversation(lambda c: c["questions"].clear()), "none has a question"),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, sentence: str) -> None:
    with pytest.raises(WrongFile, match=sentence):
        read(text)
