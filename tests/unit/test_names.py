"""Who a question is about, and how it reads in the first person."""

from __future__ import annotations

import pytest

from conversations.recall.names import in_first_person, named_in

PEOPLE = ["Caroline", "Mary Ann Lee", "Will", "A", "C++ (bot)"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("When did Caroline go to the group?", ["Caroline"]),
        ("when did caroline go to the group?", ["Caroline"]),
        ("What is Caroline's job?", ["Caroline"]),
        ("What is Caroline’s job?", ["Caroline"]),  # noqa: RUF001
        ("Did Caroline and Will meet?", ["Caroline", "Will"]),
        ("Where does Mary live?", ["Mary Ann Lee"]),
        ("Where does Mary Ann Lee live?", ["Mary Ann Lee"]),
        ("What will Jon do?", []),
        ("Carolines and Carolineas", []),
        ("Is A a name?", []),
        ("Ask C++ (bot) about it", ["C++ (bot)"]),
        ("", []),
        ("Caroline " * 10_000, []),
    ],
)
def test_named(text: str, names: list[str]) -> None:
    assert named_in(text, PEOPLE) == names


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("When did Caroline go to Caroline's group?", "When did I go to my group?"),
        ("Caroline", "I"),
        ("Did Mary Ann Lee paint?", "Did I paint?"),
        ("Did  Jon paint?", "Did Jon paint?"),
    ],
)
def test_in_first_person(text: str, said: str) -> None:
    assert in_first_person(text, ["Caroline", "Mary Ann Lee"], "english") == said


def test_in_other_languages_the_name_is_left_out() -> None:
    assert in_first_person("Wann hat Caroline gemalt?", ["Caroline"], "german") == "Wann hat gemalt?"
    assert in_first_person("Caroline", ["Caroline"], "german") == ""
