from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from conversations import lookup
from conversations.management.terminal import Command as TerminalCommand
from conversations.management.terminal import in_bytes, table


class Command(TerminalCommand):
    help = "Show totals: messages, exchanges, tokens, cost, the backlog, the size on disk."
    examples = """
  show a table:
      manage.py stats
  print JSON for a monitoring script:
      manage.py stats --json
"""

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        told = lookup.figures()
        if options["json"]:
            self.print_json(told.as_json())
            return
        average = "" if told.total_ms is None else f"{told.total_ms:,.0f} ms"
        rows = [
            ("partitions", f"{told.partitions:,}"),
            ("instances", f"{told.instances:,}"),
            ("messages", f"{told.messages:,}"),
            ("vectors", f"{told.embeddings:,}"),
            ("waiting for a vector", f"{told.waiting:,}"),
            ("exchanges", f"{told.exchanges:,}"),
            ("exchanges with memories", f"{told.remembered:,}"),
            ("exchanges failed or cut short", f"{told.failed:,}"),
            ("tokens in", f"{told.input_tokens:,}"),
            ("tokens out", f"{told.output_tokens:,}"),
            ("cost", f"${told.cost:,.4f}"),
            ("average time", average),
            ("first message", f"{told.first:%Y-%m-%d %H:%M} UTC" if told.first else ""),
            ("last message", f"{told.last:%Y-%m-%d %H:%M} UTC" if told.last else ""),
            ("size on disk", in_bytes(told.bytes)),
        ]
        self.console().print(table(rows))
