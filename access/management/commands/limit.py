from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from access import keys
from access.audit import COMMAND_LINE, Who
from access.management.arguments import add_limits, limits_of
from access.models import PartitionLimit
from conversations.management.terminal import Command as TerminalCommand
from conversations.management.terminal import safe


class Command(TerminalCommand):
    help = "List and set the limits of partitions."
    examples = """
  at most 600 requests a minute and 100 dollars a month, for all keys of the partition together:
      manage.py limit shop --requests 600 --dollars 100
  no limit any more:
      manage.py limit shop
  list them:
      manage.py limit

Limits that are not given end. The command `key limit` sets those of a key. Servers follow within 5 seconds.
"""

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("partition", nargs="?", help="its name; without one, all limits are listed")
        add_limits(parser)

    def handle(self, *args: Any, partition: str | None, **options: Any) -> None:
        if partition is None:
            for row in PartitionLimit.objects.all():
                limits = (f"{name} {value}" for name, value in keys.told(row.limits).items() if value is not None)
                self.stdout.write(safe(f"{row.partition}: {', '.join(limits)}"))
            return
        keys.limit_partition(partition, limits_of(options), Who(actor=COMMAND_LINE))
        self.stdout.write("Set.")
