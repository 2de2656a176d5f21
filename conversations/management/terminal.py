"""What the commands share: a terminal is spoken to safely, and --help teaches."""

from __future__ import annotations

import json
import re
import sys
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from django.core.management.base import BaseCommand, CommandError, DjangoHelpFormatter
from django.utils import timezone
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from conversations.models import Message
from conversations.numbers import whole_number

# What moves a cursor, colours, rings, or turns the direction of writing: controls but line break and tab, marks of
# direction, line separators, and the invisible tag characters.
_DANGEROUS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
_STYLES = {"user": "bold cyan", "assistant": "bold green"}
_AGE = re.compile(r"(\d{1,6})([hdw])")
_UNITS = {"h": "hours", "d": "days", "w": "weeks"}
_SIZE = re.compile(r"(\d{1,15})([kmg]?)b?", re.IGNORECASE)
WIDE = 200  # columns
MOST_COUNTED = 100_000
_FACTORS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}


class _Formatter(RawDescriptionHelpFormatter, DjangoHelpFormatter):
    """Examples keep their lines; Django's own options come last."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise  # what is being handled, in place of an exit: manage.py sees to it


class Command(BaseCommand):
    """A command whose --help ends with `examples`. What is read by a script goes to stdout, all else to stderr."""

    examples: ClassVar[str] = ""
    wide: ClassVar[bool] = False  # prints tables that are not to be folded where nobody's screen is too narrow
    requires_system_checks: list[str] = []

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        epilog = f"examples:\n{self.examples.strip(chr(10))}" if self.examples else None
        return super().create_parser(prog_name, subcommand, formatter_class=_Formatter, epilog=epilog, **kwargs)

    def print_json(self, value: Any) -> None:
        """One JSON value, in ASCII."""
        self.stdout.write(json.dumps(value, indent=2))

    def say(self, text: str) -> None:
        """Something for the person who looks on."""
        self.stderr.write(text, str)

    def console(self) -> Console:
        """stdout, where what is printed is for a person."""
        width = None if self.stdout.isatty() or not self.wide else WIDE
        return _Console(file=self.stdout, width=width, highlight=False, markup=False, emoji=False)  # type: ignore[arg-type]


def add_scope(parser: ArgumentParser) -> None:
    """--partition and --instance."""
    parser.add_argument("--partition", metavar="NAME", help="only this partition")
    parser.add_argument("--instance", metavar="NAME", help="only this instance of it")


def scope_of(options: Mapping[str, Any]) -> dict[str, str | None]:
    """What add_scope's options say. Raises CommandError for an instance without its partition."""
    if options["instance"] is not None and options["partition"] is None:
        raise CommandError("An instance is named without its partition: give --partition too.")
    return {name: options[name] for name in ("partition", "instance")}


def safe(text: str) -> str:
    """Stored text for a terminal: what could act on it stands there as an escape, such as \\x1b or \\u202e."""
    return _DANGEROUS.sub(_escape, text.replace("\r\n", "\n"))


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def moment(text: str) -> datetime:
    """For argparse: a date or time (UTC where it says no zone), or an age such as 12h, 30d, 8w."""
    if age := _AGE.fullmatch(text):
        try:
            return timezone.now() - timedelta(**{_UNITS[age[2]]: int(age[1])})
        except OverflowError:
            raise ArgumentTypeError(f"{text!r} is longer ago than dates go") from None
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(
            f"{text!r} is no time: write 2026-01-31, 2026-01-31T12:00:00+01:00, or an age such as 30d"
        ) from None
    return given if given.tzinfo else given.replace(tzinfo=UTC)


def size(text: str) -> int:
    """For argparse: bytes, such as 5000, 64k, 2M."""
    given = _SIZE.fullmatch(text)
    if given is None:
        raise ArgumentTypeError(f"{text!r} is no size: write bytes, such as 5000, 64k or 2M")
    return int(given[1]) * _FACTORS[given[2].lower()]


def count(text: str) -> int:
    """For argparse: a number of things, from 1 to 100,000."""
    number = whole_number(text, most=MOST_COUNTED)
    if not number:
        raise ArgumentTypeError(f"{text!r} is not a number from 1 to {MOST_COUNTED}")
    return number


def in_bytes(number: int) -> str:
    """For a person: 1.5 MB."""
    amount = float(number)
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 1024 or unit == "GB":
            return f"{amount:,.0f} {unit}" if unit == "bytes" else f"{amount:,.1f} {unit}"
        amount /= 1024
    raise AssertionError


def progress(what: str, *, total: float | None = None, unit: str = "messages") -> tuple[Progress, Any]:
    """A bar on stderr, or a count where the total is not known; nothing where stderr is no terminal."""
    columns: list[ProgressColumn | str] = [SpinnerColumn(), TextColumn("{task.description}")]
    if total is not None:
        columns += [BarColumn(), TextColumn("{task.percentage:>3.0f}%")]
    columns += [TextColumn("{task.fields[count]:,} " + unit), TimeElapsedColumn()]
    bar = Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True)
    return bar, bar.add_task(what, total=total, count=0)


def table(rows: Sequence[tuple[str, str]], title: str = "") -> Table:
    """Names and values."""
    made = Table(show_header=False, box=None, pad_edge=False, title=title or None, title_justify="left")
    made.add_column(style="dim")
    made.add_column(justify="right")
    for name, value in rows:
        made.add_row(Text(safe(name)), Text(safe(value)))
    return made


def print_messages(console: Console, messages: Iterable[Message]) -> None:
    """Messages as a dialogue, each under a line that says who, when and where."""
    for message in messages:
        near = getattr(message, "distance", None)
        console.print(
            Text(safe(message.name or message.role), style=_STYLES.get(message.role, "bold")),
            Text(f"{message.created:%Y-%m-%d %H:%M:%S}", style="dim"),
            Text(safe(f"{message.instance.partition.name}/{message.instance.name} #{message.pk}"), style="dim"),
            Text("" if near is None else f"{1 - near:.2f}", style="yellow"),
            soft_wrap=True,
        )
        console.print(Text(safe(message.content) or "(no text)"), soft_wrap=True)
        console.print()
