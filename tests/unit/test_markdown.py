"""Exported conversations as Markdown."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversations.archive.markdown import as_markdown


def said(content: str, **more: Any) -> dict[str, Any]:
    base = {"partition": "app", "instance": "ann", "role": "user", "name": "", "timestamp": 1_700_000_000_000}
    return base | {"content": content} | more


def test_scopes_and_days_are_headings_and_messages_name_their_speaker() -> None:
    later = said("Bye", role="assistant", name="Eve", timestamp=1_700_100_000_000)
    other = said("Hi", instance="bob")
    bare = {"partition": "app", "instance": "ann", "exchange": {}}
    assert "".join(as_markdown([said("Hello"), later, bare, other])) == (
        "# app / ann\n\n## 2023-11-14\n\n**user**, 22:13\n\nHello\n\n"
        "## 2023-11-16\n\n**assistant** (Eve), 02:00\n\nBye\n\n"
        "# app / bob\n\n## 2023-11-14\n\n**user**, 22:13\n\nHi\n\n"
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("# Title", "\\# Title"),
        ("one\n===", "one\n\\==="),
        ("---", "\\---"),
        ("a #tag", "a #tag"),
        ("```\n# code\n```", "```\n# code\n```"),
        ("```\nopen", "```\nopen\n```"),
        ("", "_(no text)_"),
        ("a\x1b[31m\u202eb", "a\ufffd[31m\ufffdb"),
    ],
)
def test_a_message_cannot_change_the_document_around_it(text: str, shown: str) -> None:
    document = "".join(as_markdown([said(text)]))
    assert document.endswith(f"22:13\n\n{shown}\n\n")


@given(st.text(), st.text())
def test_every_message_has_its_line_whatever_it_says(text: str, name: str) -> None:
    document = "".join(as_markdown([said(text, name=name), said("after")]))
    assert document.endswith("**user**, 22:13\n\nafter\n\n")
