"""The rules in force: the ready-made ones beside this module, and those of the TOML file that RESERVOIR_RULES names.

    without = ["title"]              # ready-made rules that are switched off

    [[rules]]
    name = "nightly-report"
    models = ["gpt-4o-mini"]         # all conditions of a rule must hold
    headers = { X-Job = "nightly*" }
    user = 'Write the report for'    # ready_made.toml shows the other conditions

The operator's rules are tried first.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy.prompt.chat import Chat
from proxy.rules.rule import Asked, Headers, Rule, rule_for

VARIABLE = "RESERVOIR_RULES"
READY_MADE = Path(__file__).with_name("ready_made.toml")
EXPRESSIONS = ("user", "user_contains", "system", "system_contains")
KEYS = ("name", "models", "headers", *EXPRESSIONS)
LONGEST_NAME = 60  # characters
LONGEST_EXPRESSION = 2_000
REPEATED = "repeated"  # the rule for polls, which is not an expression


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules in force, in the order in which they are tried. `polls`: repetition is a rule, too."""

    rules: tuple[Rule, ...] = ()
    polls: bool = True

    def holding(self, chat: Chat, headers: Headers) -> str:
        """The name of the first rule that holds for a request; "" if none does."""
        return rule_for(self.rules, Asked.of(chat, headers)) if self.rules else ""


def from_environment(environ: Mapping[str, str]) -> Rules:
    """Raises ValueError for a mistake, with a sentence that says what to write instead."""
    ready_made = _File.read(str(READY_MADE)).rules()
    path = environ.get(VARIABLE, "").strip()
    if not path:
        return Rules(ready_made)
    own = _File.read(path)
    without = own.without({rule.name for rule in ready_made})
    kept = (rule for rule in ready_made if rule.name not in without)
    return Rules((*own.rules(), *kept), polls=REPEATED not in without)


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    content: Mapping[str, Any]

    @classmethod
    def read(cls, path: str) -> _File:
        try:
            content = tomllib.loads(Path(path).read_text("utf-8"))
        except OSError as error:
            raise ValueError(f"RESERVOIR_RULES: {path} cannot be read ({error.strerror}): name a TOML file.") from error
        except ValueError as error:
            raise ValueError(f"RESERVOIR_RULES: {path} is not TOML in UTF-8: {error}.") from error
        file = cls(path, content)
        file._only("the file", content, ("rules", "without"))
        return file

    def without(self, known: set[str]) -> set[str]:
        names = self.content.get("without", [])
        if not _is_list_of_texts(names):
            raise self._wrong("without", 'a list of names, as ["title"]')
        for name in names:
            if name not in known and name != REPEATED:
                raise self._wrong("without", f"names of ready-made rules; {name!r} is not one of them")
        return set(names)

    def rules(self) -> tuple[Rule, ...]:
        tables = self.content.get("rules", [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            raise self._wrong("rules", "tables, each as [[rules]]")
        rules = tuple(self._rule(f"rule {at}", table) for at, table in enumerate(tables, 1))
        names = [rule.name for rule in rules]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise self._wrong("rules", f"each name once; {twice!r} is there twice")
        return rules

    def _rule(self, where: str, table: Mapping[str, Any]) -> Rule:
        name = table.get("name")
        if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name) or len(name) > LONGEST_NAME:
            raise self._wrong(f"{where}.name", f"a name of a-z, 0-9, - and _, at most {LONGEST_NAME} characters")
        if name == REPEATED:
            raise self._wrong(f"{where}.name", f"another name: {REPEATED!r} is built in")
        where = f"rule {name}"
        self._only(where, table, KEYS)
        if len(table) < 2:
            raise self._wrong(where, f"a condition: one of {', '.join(KEYS[1:])}")
        models, headers = table.get("models", []), table.get("headers", {})
        if not _is_list_of_texts(models):
            raise self._wrong(f"{where}.models", 'a list of patterns, as ["gpt-4o-mini*"]')
        if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
            raise self._wrong(f"{where}.headers", 'names and patterns of values, as { X-Task = "title*" }')
        return Rule(
            name=name,
            models=tuple(models),
            headers=tuple((header.lower(), pattern) for header, pattern in headers.items()),
            **{key: self._expression(f"{where}.{key}", table[key]) for key in EXPRESSIONS if key in table},
        )

    def _expression(self, where: str, text: Any) -> re.Pattern[str]:
        if not isinstance(text, str) or not text or len(text) > LONGEST_EXPRESSION:
            raise self._wrong(where, f"a regular expression of at most {LONGEST_EXPRESSION} characters")
        try:
            # It is matched with texts in lower case.
            expression = re.compile(text, re.IGNORECASE if text != text.lower() else 0)
        except (re.error, OverflowError, RecursionError) as error:
            raise self._wrong(where, f"a regular expression ({error})") from None
        if expression.match(""):
            raise self._wrong(where, "an expression that does not match an empty text: it would hold for every request")
        if _nests(text):
            raise self._wrong(where, "no repetition (*, +, {...}) inside a repetition: hostile texts would hold up all")
        return expression

    def _only(self, where: str, table: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
        for key in table:
            if key not in allowed:
                raise self._wrong(where, f"{', '.join(allowed)}; {key!r} is not one of them")

    def _wrong(self, where: str, wanted: str) -> ValueError:
        return ValueError(f"RESERVOIR_RULES: {self.path}, {where}: write {wanted}.")


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) and one for one in value)


_SIGNS = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{\d*,?\d*\}|.", re.DOTALL)


def _nests(expression: str) -> bool:
    """Whether a group that holds an unlimited repetition is itself repeated without a limit."""
    holds = [False]  # for each open group: whether it holds such a repetition
    closed = False  # whether the group that has just ended holds one
    for sign in _SIGNS.findall(expression):
        if sign == "(":
            holds.append(False)
            closed = False
        elif sign == ")":
            closed = holds.pop() if len(holds) > 1 else False
            holds[-1] |= closed
        elif sign in "*+" or (sign.startswith("{") and sign.endswith(",}")):
            if closed:
                return True
            holds[-1] = True
            closed = False
        else:
            closed = False
    return False
