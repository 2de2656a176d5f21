from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from conversations import lookup
from conversations.embedders.base import EmbedderError
from conversations.embedding import EmbedderInUse
from conversations.management.terminal import Command as TerminalCommand
from conversations.management.terminal import add_scope, count, print_messages, scope_of


class Command(TerminalCommand):
    help = "Find messages by words, latest first, or by meaning, nearest first."
    examples = """
  find messages with both words, in any form:
      manage.py search "toaster story"
  find an exact phrase, and exclude a word:
      manage.py search '"brave little toaster" -robot'
  find messages by meaning:
      manage.py search "kitchen appliances" --semantic --partition my-app --limit 5

Exit code 1 if nothing was found.
"""

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("term", metavar="TERM", help='words, "phrases", -exclusions; with --semantic any text')
        parser.add_argument("--semantic", action="store_true", help="search by meaning")
        add_scope(parser)
        parser.add_argument(
            "--limit", type=count, default=10, metavar="N", help="show at most N messages (default: 10)"
        )
        parser.add_argument("--json", action="store_true", help="print a JSON list")

    def handle(self, *args: Any, term: str, **options: Any) -> None:
        scope = scope_of(options)
        embedder = EmbedderInUse() if options["semantic"] else None
        try:
            messages = lookup.search(term, limit=options["limit"], embedder=embedder, **scope)  # type: ignore[arg-type]
        except EmbedderError as error:
            raise CommandError(str(error)) from None
        finally:
            if embedder:
                embedder.close()
        if options["json"]:
            self.print_json([lookup.as_json(message) for message in messages])
        else:
            print_messages(self.console(), messages)
        if not messages:
            raise CommandError("Nothing was found.")
