from __future__ import annotations

import getpass
import sys
from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandError

from conversations import forgetting
from conversations.forgetting import Counts
from conversations.management.terminal import Command as TerminalCommand
from conversations.management.terminal import add_scope, in_bytes, moment, safe, size, table
from conversations.models import Instance, Partition
from conversations.selection import Selection

NAMES = {
    "messages": "messages",
    "embeddings": "vectors",
    "exchanges": "exchanges",
    "ledgers": "ledgers",
    "cleared": "exchanges that lose their texts",
    "instances": "instances",
    "partitions": "partitions",
}


class Command(TerminalCommand):
    help = "Forget: remove messages from everywhere, in one transaction, after showing what goes."
    examples = """
  what would go? nothing is removed:
      manage.py prune --partition my-app --instance alice --search "credit card" --dry-run
  a person's whole memory, without being asked:
      manage.py prune --partition my-app --instance alice --whole --yes
  by age, size and role, everywhere:
      manage.py prune --before 365d --larger-than 100k --role tool
  single messages, by the ids that search --json gives:
      manage.py prune --id 1203 --id 1207
  nightly: what partitions keep for a number of days only (set in the admin):
      manage.py prune --retention --yes

Criteria narrow each other. An audit entry says who removed how much, never what it said. Backups made before keep it.
A client that still has a message in its history and sends it again has it stored again.
"""

    def add_arguments(self, parser: ArgumentParser) -> None:
        what = parser.add_argument_group("what to forget")
        add_scope(what)  # type: ignore[arg-type]
        what.add_argument("--id", type=int, action="append", metavar="N", help="this message; may be repeated")
        what.add_argument("--since", type=moment, metavar="D", help="said at or after: 2026-01-31, or 30d (ago)")
        what.add_argument("--before", type=moment, metavar="D", help="said before")
        what.add_argument("--larger-than", type=size, metavar="SIZE", help="messages of more bytes: 5000, 64k, 2M")
        what.add_argument("--role", help="said by: user, assistant, tool, ...")
        what.add_argument(
            "--search",
            metavar="WORDS",
            help='that hold all the words, in their first 60,000 characters; "phrases", -exclusions',
        )
        what.add_argument("--whole", action="store_true", help="the whole partition or instance, and its name")
        what.add_argument("--retention", action="store_true", help="what partitions have kept long enough")
        parser.add_argument("--dry-run", action="store_true", help="only say what would go")
        parser.add_argument("--yes", action="store_true", help="do not ask")
        parser.add_argument("--json", action="store_true", help="print the counts as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        names = ("partition", "instance", "since", "before", "larger_than", "role", "search", "whole")
        given = {name: options[name] for name in names if options[name] not in (None, False)}
        if options["id"] is not None:
            given["ids"] = tuple(options["id"])
        if options["retention"]:
            if given:
                raise CommandError("--retention takes no other criteria: it applies what each partition says.")
            selections = forgetting.expired()
        else:
            try:
                selections = [Selection(**given)]
            except ValueError as error:
                raise CommandError(f"{error} See --help.") from None
            self._must_exist(given.get("partition"), given.get("instance"))
        goes = sum((forgetting.count(selection) for selection in selections), Counts())
        removes = bool(goes) and not options["dry_run"]
        if not options["json"]:
            self._show(goes)
        if removes:
            self._ask(options["yes"])
            by = f"{'retention, ' if options['retention'] else ''}command line ({getpass.getuser()})"
            goes = sum((forgetting.forget(selection, by=by) for selection in selections), Counts())
        if options["json"]:
            self.print_json({"dry_run": options["dry_run"], **asdict(goes)})
        else:
            self.say("Gone." if removes else "Nothing was removed.")

    def _show(self, goes: Counts) -> None:
        counts = asdict(goes)
        rows = [(name, f"{counts[key]:,}") for key, name in NAMES.items() if counts[key] or key == "messages"]
        self.console().print(table([*rows, ("texts and vectors", in_bytes(goes.bytes))], title="What goes"))

    def _must_exist(self, partition: str | None, instance: str | None) -> None:
        """A name that is misspelt is no name under which nothing is left."""
        if partition is not None and not Partition.objects.filter(name=partition).exists():
            raise CommandError(f"There is no partition {safe(partition)}.")
        places = Instance.objects.filter(partition__name=partition, name=instance)
        if partition is not None and instance is not None and not places.exists():
            raise CommandError(f"There is no instance {safe(instance)} in the partition {safe(partition)}.")

    def _ask(self, yes: bool) -> None:
        if yes:
            return
        if not sys.stdin.isatty():
            raise CommandError("Nobody is there to ask: give --yes to remove it, or --dry-run to only count.")
        self.stderr.write("Remove it for good? [y/N] ", str, ending="")
        if safe(input()).strip().lower() not in ("y", "yes"):
            raise CommandError("Nothing was removed.")
