"""Finds the participant in a question, and rewords it in the first person."""

from __future__ import annotations

import pytest

from conversations.recall.names import in_first_person, mentions, same_person

PEOPLE = ["Caroline", "Mary Ann Lee", "Will", "A", "C++ (bot)"]
PANEL = ["Grad A", "Grad B", "Hon. Ann Ray", "Hon. Ann Ray (Minister of Seas)", "Hon. Bill Oak", "elise"]


def names_in(text: str, people: list[str]) -> list[str]:
    return [mention.name for mention in mentions(text, people)]


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
        ("What did Ms. Lee say?", ["Mary Ann Lee"]),
        ("What will Jon do?", []),
        ("Is A a name?", []),
        ("Ask C++ (bot) about it", ["C++ (bot)"]),
        ("", []),
        ("Caroline " * 10_000, []),
    ],
)
def test_a_name_is_found_in_a_question(text: str, names: list[str]) -> None:
    assert names_in(text, PEOPLE) == names


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("What did Grad B say?", ["Grad B"]),
        ("What did the Grad say?", []),
        ("What did Mr. Oak answer?", ["Hon. Bill Oak"]),
        ("Who is Hon. Ann Ray?", ["Hon. Ann Ray", "Hon. Ann Ray (Minister of Seas)"]),
        ("Where is Elise from?", ["elise"]),
    ],
)
def test_a_name_is_known_by_the_words_that_are_its_own(text: str, names: list[str]) -> None:
    assert sorted(names_in(text, PANEL)) == names


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("What do Mel's kids like?", ["Melanie"]),
        ("Where did Jhon go?", ["John"]),
        ("Which plants does Melany grow?", ["Melanie"]),
        ("Mel is a word that begins a sentence", []),
        ("What does mel like? Say", []),
        ("Does Jo like it?", []),
        ("Who is Max?", []),
    ],
)
def test_short_forms_and_near_spellings_of_names(text: str, names: list[str]) -> None:
    assert names_in(text, ["Melanie", "John", "Maria"]) == names


def test_a_near_spelling_of_two_names_is_neither() -> None:
    assert names_in("Did Marla come?", ["Maria", "Marly"]) == []


def test_names_in_scripts_without_spaces() -> None:
    found = mentions("王芳喜欢什么?", ["王芳", "李明"])
    assert [mention.name for mention in found] == ["王芳"]
    assert in_first_person("王芳喜欢什么?", found, "english") == "我喜欢什么?"


def test_brackets_do_not_make_two_people() -> None:
    assert same_person(["Hon. Ann Ray", "Hon. Ann Ray (Minister of Seas)"])
    assert not same_person(["Grad A", "Grad B"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("When did Caroline go to Caroline's group?", "When did I go to my group?"),
        ("Caroline", "I"),
        ("Did Mary Ann Lee paint?", "Did I paint?"),
        ("Did  Jon paint?", "Did Jon paint?"),
    ],
)
def test_a_question_is_reworded_in_the_first_person(text: str, said: str) -> None:
    assert in_first_person(text, mentions(text, ["Caroline", "Mary Ann Lee"]), "english") == said


def test_questions_in_other_languages_drop_the_name() -> None:
    question = "Wann hat Caroline gemalt?"
    assert in_first_person(question, mentions(question, ["Caroline"]), "german") == "Wann hat gemalt?"
    assert in_first_person("Caroline", mentions("Caroline", ["Caroline"]), "german") == ""
