"""proxy/demo/quoting.py: the provider without a model knows only the request."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from proxy.demo.quoting import LONGEST_QUOTE, SELF, answer
from proxy.prompt.chat import Memory
from proxy.prompt.enrichment import render

NOON = datetime(2026, 7, 2, 12, 0, tzinfo=UTC)
CAT = "My cat is called Miso. Is that a good name?"


def user(text: object) -> dict[str, Any]:
    return {"role": "user", "content": text}


def block(*notes: tuple[str, str]) -> dict[str, Any]:
    memories = [Memory(i, role, "", NOON.replace(minute=i), text) for i, (role, text) in enumerate(notes)]
    return {"role": "system", "content": render(memories)}


def test_a_note_of_the_memory_block_is_quoted_with_its_source() -> None:
    notes = block(("user", "The spare key is with Mr Okafor."), ("user", CAT), ("assistant", "A cat of taste."))
    quoted = answer([notes, user("What are cats like mine called?")])
    assert quoted == f'{SELF} From user, 2026-07-02 12:01 UTC: "My cat is called Miso."'


def test_an_earlier_turn_is_quoted() -> None:
    turns = [user(CAT), {"role": "assistant", "content": "Noted."}]
    assert answer([*turns, user("What is my cat called?")]).endswith('in an earlier turn: "My cat is called Miso."')
    parts = [user([{"type": "text", "text": CAT}]), user([{"type": "text", "text": "My cat?"}])]
    assert "Miso" in answer(parts)


def test_ties_quote_the_later_turn_and_the_user_first() -> None:
    turns = [user("I live in Bonn."), user("I live in Oslo."), {"role": "assistant", "content": "You live in Rome."}]
    assert "Oslo" in answer([*turns, user("Where do I live?")])


def test_questions_and_its_own_answers_are_not_quoted() -> None:
    asked = user("What is my cat called?")
    first = {"role": "assistant", "content": answer([asked])}
    assert "shares a word" in str(first["content"])
    assert answer([asked, first, asked]).startswith(f"{SELF} Nothing")
    assert answer([block(("user", "What is my cat called?"), ("assistant", str(first["content"]))), asked]).startswith(
        f"{SELF} Nothing"
    )


def test_one_sentence_of_a_long_note_is_quoted() -> None:
    long = "Nothing of interest here. " * 20 + "My cat is called Miso. " + "And nothing more. " * 20
    assert len(long) > LONGEST_QUOTE
    assert answer([block(("user", long)), user("What is my cat called?")]).endswith('"My cat is called Miso."')


def test_an_empty_memory_is_admitted() -> None:
    assert answer([user("What is my cat called?")]) == (
        f"{SELF} Nothing in it (0 notes) shares a word with your question."
    )
    assert answer([{"role": "system", "content": "Be brief."}]) == f"{SELF} This request asks nothing."
