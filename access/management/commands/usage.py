from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

from rich.table import Table
from rich.text import Text

from access.usage import usage_by
from conversations.management.terminal import Command as TerminalCommand
from conversations.management.terminal import moment, safe
from conversations.models import Exchange
from conversations.usage import DIMENSIONS, as_csv


def dimensions(text: str) -> tuple[str, ...]:
    """For argparse: some of DIMENSIONS, between commas."""
    by = tuple(word.strip() for word in text.split(","))
    if not set(by) <= set(DIMENSIONS) or len(by) != len(set(by)):
        raise ArgumentTypeError(f"{text!r}: write some of {', '.join(DIMENSIONS)}, between commas")
    return by


class Command(TerminalCommand):
    help = "Show what exchanges used and cost, by day, partition, provider, model or access key; costliest first."
    examples = """
  what cost most in the last day:
      manage.py usage --since 1d --by partition,model
  what each access key has used in 30 days, and of what:
      manage.py usage --by key,model
  a file for a spreadsheet:
      manage.py usage --since 2026-11-01 --before 2026-12-01 --by day,partition,model --csv > november.csv
"""
    wide = True

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--by", type=dimensions, default=("partition", "model"), help=", ".join(DIMENSIONS))
        parser.add_argument("--since", type=moment, help="an age such as 7d, or a time; default 30d")
        parser.add_argument("--before", type=moment, help="the end, not included")
        parser.add_argument("--partition", help="only this partition")
        form = parser.add_mutually_exclusive_group()
        form.add_argument("--csv", action="store_true", help="print CSV")
        form.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        exchanges = Exchange.objects.within(options["partition"]).filter(created__gte=options["since"] or moment("30d"))
        if options["before"]:
            exchanges = exchanges.filter(created__lt=options["before"])
        by = options["by"]
        rows = usage_by(exchanges, by)
        if options["csv"]:
            self.stdout.write(as_csv(rows, by), ending="")
        elif options["json"]:
            self.print_json([{name: _plain(value) for name, value in row.items()} for row in rows])
        else:
            self.console().print(_table(rows, by))


def _plain(value: Any) -> Any:
    return value if isinstance(value, int) else str(value)


def _table(rows: list[dict[str, Any]], by: tuple[str, ...]) -> Table:
    table = Table(*by)
    for name in ("exchanges", "failed", "degraded", "tokens in", "tokens out", "cost"):
        table.add_column(name, justify="right")
    for row in rows:
        figures = (f"{row[name]:,}" for name in ("exchanges", "failed", "degraded", "input", "output"))
        table.add_row(*(Text(safe(str(row[name]))) for name in by), *figures, f"${row['dollars']:,.4f}")
    return table
