"""Documentation that cannot rot: README lists exactly the settings and commands that exist, and paths exist."""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from conversations.recall.ranking import WEIGHTS

ROOT = Path(__file__).resolve().parent.parent.parent
README = (ROOT / "README.md").read_text()
CODE = ("reservoir_site", "console", "proxy", "access", "conversations")
PROSE = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
REQUIREMENTS = tuple(sorted(path.stem for path in ROOT.glob("requirements*.in")))
# Phrases that mark translated English; CONTRIBUTING asks for plain English.
BANNED = (
    "whoever",
    "nobody",
    "somebody",
    "is away",
    "are away",
    "so many",
    "made of themselves",
    "in vain",
    "of itself",
    "for ever",
)
SETTING = re.compile(r"RESERVOIR_[A-Z_]+|RSV_[A-Z_]+|DATABASE_(?:DIRECT_)?URL|[A-Z]+_API_KEY|TIKTOKEN_CACHE_DIR")
# Django settings that look like environment variables; the table lists the variables they are derived from.
DERIVED = {"RESERVOIR_BIND"}


def sources() -> Iterator[Path]:
    for package in CODE:
        yield from (path for path in (ROOT / package).rglob("*.py") if "migrations" not in path.parts)


def section(title: str) -> str:
    """Return the text of a section of README, up to the next heading of its level."""
    match = re.search(rf"^## {title}$(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    assert match, f"README has no section {title!r}"
    return match[1]


def rows(title: str) -> list[str]:
    """Return the code spans in the first column of a section's tables."""
    return re.findall(r"^\| `([^`]+)` \|", section(title), re.MULTILINE)


def settings_read() -> set[str]:
    """Return every string literal in the code that is exactly a setting's name."""
    nodes = (node for path in sources() for node in ast.walk(ast.parse(path.read_text())))
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {text for text in texts if SETTING.fullmatch(text)} - DERIVED


def commands() -> set[str]:
    return {
        path.stem
        for package in CODE
        for path in (ROOT / package / "management" / "commands").glob("*.py")
        if path.stem != "__init__"
    }


def test_every_setting_is_documented() -> None:
    assert settings_read() - set(rows("Settings")) == set()


def test_every_documented_setting_exists() -> None:
    assert set(rows("Settings")) - settings_read() == set()


def test_no_setting_is_documented_twice() -> None:
    names = rows("Settings")
    assert len(names) == len(set(names))


def test_every_command_is_documented_and_every_documented_one_exists() -> None:
    documented = {row.split("manage.py ")[1].split()[0] for row in rows("Commands") if "manage.py " in row}
    assert documented == commands()


@pytest.mark.parametrize("document", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_paths_in_documents_exist(document: str) -> None:
    text = (ROOT / document).read_text()
    links = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    scripts = re.findall(r"(?:^|[\s`])((?:script|\.ci)/[a-z]+)", text)
    assert links or scripts
    assert [name for name in (*links, *scripts) if not (ROOT / name).exists()] == []


def test_pictures_and_links_of_the_docs_exist() -> None:
    links = {
        (path, link)
        for path in PROSE
        for link in re.findall(r"\]\((?!http)([^)#\s]+)", path.read_text())
        if not (path.parent / link).exists()
    }
    assert sorted((path.name, link) for path, link in links) == []


def test_links_to_headings_lead_somewhere() -> None:
    missing = []
    for path in PROSE:
        for target, anchor in re.findall(r"\]\((?!http)([^)#\s]*)#([^)\s]+)\)", path.read_text()):
            text = (path.parent / target).read_text() if target else path.read_text()
            headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
            if anchor not in {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}:
                missing.append((path.name, f"{target}#{anchor}"))
    assert missing == []


def test_twenty_questions_are_answered_by_files_that_exist() -> None:
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    answers = re.findall(r"^\| [^|]+\? \| `([^`]+)` \|$", contributing, re.MULTILINE)
    assert len(answers) == len(set(answers)) == 20
    assert [answer for answer in answers if not (ROOT / answer).is_file()] == []


def banned_in(text: str) -> list[str]:
    """Return the banned phrases in a text, each with the words around it."""
    return re.findall(rf"(?i).{{0,30}}\b(?:{'|'.join(BANNED)})\b.{{0,30}}", " ".join(text.split()))


def prose_of(path: Path) -> str:
    """Return the comments of a module, and its strings: docstrings, log lines, help and errors."""
    with path.open("rb") as file:
        tokens = list(tokenize.tokenize(file.readline))
    prose = (tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING))
    return "\n".join(token.string.lstrip("# ") for token in tokens if token.type in prose)


@pytest.mark.parametrize("path", PROSE, ids=lambda path: str(path.relative_to(ROOT)))
def test_prose_avoids_banned_phrases(path: Path) -> None:
    without_code = re.sub(r"^```.*?^```|`[^`\n]*`", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert banned_in(without_code) == []


def test_comments_and_strings_avoid_banned_phrases() -> None:
    assert {path.name: found for path in sources() if (found := banned_in(prose_of(path)))} == {}


def test_pages_avoid_banned_phrases() -> None:
    pages = (ROOT / "console" / "templates").rglob("*.html")
    assert {path.name: found for path in pages if (found := banned_in(path.read_text()))} == {}


def test_the_map_names_modules_that_exist() -> None:
    architecture = (ROOT / "ARCHITECTURE.md").read_text()
    block = re.search(r"```\n(reservoir_site/.*?)```", architecture, re.DOTALL)
    assert block
    missing, package = [], ""
    for line in block[1].splitlines():
        names = re.match(r" *((?:[a-z_]+(?:\.py|/) *)+)", line)
        if not names:
            continue
        if not line.startswith(" "):
            package = names[1].strip()
        missing += [
            name for name in names[1].split() if not (ROOT / name).exists() and not (ROOT / package / name).exists()
        ]
    assert missing == []


def test_every_module_is_on_the_map() -> None:
    architecture = (ROOT / "ARCHITECTURE.md").read_text()
    unmentioned = {"__init__.py", "apps.py"}
    wings = {
        "proxy": ("prompt", "dialects", "answer", "memory", "providers", "rules", "spool", "database"),
        "conversations": ("recall",),
    }
    wings["console"] = ("lists", "conversation", "exchange", "forgetting")
    folders = [ROOT / package for package in CODE]
    folders += [ROOT / package / wing for package, names in wings.items() for wing in names]
    modules = {path.name for folder in folders for path in folder.glob("*.py")}
    assert sorted(name for name in modules - unmentioned if name not in architecture) == []


def test_every_direct_dependency_says_why() -> None:
    for name in REQUIREMENTS:
        lines = (ROOT / f"{name}.in").read_text().splitlines()
        unexplained = [
            line
            for before, line in zip(["", *lines], lines, strict=False)
            if line and not line.startswith(("#", "-r", "-c")) and not before.startswith("#")
        ]
        assert unexplained == [], name


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_requirements_are_pinned_and_name_no_index(name: str) -> None:
    text = (ROOT / f"{name}.txt").read_text()
    assert "script/lock" in text.splitlines()[1]
    assert not re.search(r"://|--index|--extra|--find-links|--trusted", text)
    whole = text.replace(" \\\n", "")  # one line a package, with its hashes
    lines = [line for line in whole.splitlines() if line and not line.lstrip().startswith("#")]
    pin = r"[a-z0-9-]+(\[[a-z0-9,]+\])?==[^ ]+( ; .+?)?(    --hash=sha256:[0-9a-f]{64})+$"
    assert [line for line in lines if not re.match(pin, line)] == []
    pinned = {line.partition("==")[0].partition("[")[0] for line in lines}
    wanted = {
        re.split(r"[\[~=<>; ]", line)[0].lower()
        for line in (ROOT / f"{name}.in").read_text().splitlines()
        if line and not line.startswith(("#", "-"))
    }
    assert wanted <= pinned, "run script/lock"


def test_development_uses_the_versions_that_run() -> None:
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^([a-z0-9-]+==[^ \n]+)", (ROOT / name).read_text(), re.MULTILINE))

    assert pins("requirements.txt") | pins("requirements-embedded.txt") <= pins("requirements-dev.txt")


def test_the_weights_of_recall_are_those_of_the_formula() -> None:
    table = re.findall(r"^ *\| `([a-z]+)` \| (-?[0-9.]+) \|", (ROOT / "docs" / "recall.md").read_text(), re.MULTILINE)
    assert {name: float(weight) for name, weight in table} == dict(WEIGHTS)
