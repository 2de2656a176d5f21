"""The list of commands that `help` prints."""

from __future__ import annotations

from reservoir_site.command_line import GROUPS, OTHERS, CommandLine, grouped, summary


def test_each_of_our_commands_is_in_one_group_and_has_a_line() -> None:
    groups = grouped()
    names = [name for group in groups.values() for name in group]
    assert len(names) == len(set(names))
    assert OTHERS not in groups, f"give these commands a group: {groups[OTHERS]}"
    assert [name for name in names if not summary(name)] == []


def test_our_commands_come_before_djangos() -> None:
    text = CommandLine(["manage.py", "help"]).main_help_text()
    assert text.index("Run") < text.index("  serve ") < text.index("Django's") < text.index("makemigrations")
    assert all(group in text for group in GROUPS)


def test_shell_completion_gets_plain_names() -> None:
    names = CommandLine(["manage.py", "help"]).main_help_text(commands_only=True).split()
    assert {"serve", "migrate"} <= set(names)
