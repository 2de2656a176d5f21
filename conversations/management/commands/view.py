from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from conversations import lookup
from conversations.management.terminal import Command as TerminalCommand
from conversations.management.terminal import add_scope, count, print_messages, scope_of


class Command(TerminalCommand):
    help = "Show the latest messages, oldest first."
    examples = """
  what was said last, anywhere:
      manage.py view 10
  by one user of one app, for a script:
      manage.py view 50 --partition my-app --instance alice --json

Characters that would act on the terminal are shown as escapes such as \\x1b.
"""

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("count", type=count, metavar="COUNT", help="how many messages")
        add_scope(parser)
        parser.add_argument("--json", action="store_true", help="print a JSON list")

    def handle(self, *args: Any, **options: Any) -> None:
        messages = lookup.latest(options["count"], **scope_of(options))
        if options["json"]:
            self.print_json([lookup.as_json(message) for message in messages])
        else:
            print_messages(self.console(), messages)
            if not messages:
                self.say("Nothing is remembered there yet.")
