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
    help = "Forget messages: remove them from everywhere, in one transaction, after showing what goes."
    examples = """
  show what would go, and remove nothing:
      manage.py prune --partition my-app --instance alice --search "credit card" --dry-run
  remove a person's whole memory, without confirmation:
      manage.py prune --partition my-app --instance alice --whole --yes
  remove by age, size and role, everywhere:
      manage.py prune --before 365d --larger-than 100k --role tool
  remove single messages, by ids from search --json:
      manage.py prune --id 1203 --id 1207
  run nightly: apply the retention of each partition (set in the admin):
      manage.py prune --retention --yes

Messages must meet all criteria. An audit entry records who removed how much, but no text. Earlier backups still contain
the messages. A client that resends a forgotten message from its own history stores it again.
"""

    def add_arguments(self, parser: ArgumentParser) -> None:
        what = parser.add_argument_group("what to forget")
        add_scope(what)  # type: ignore[arg-type]
        what.add_argument("--id", type=int, action="append", metavar="N", help="this message; may be repeated")
        what.add_argument("--since", type=moment, metavar="D", help="at or after this time: 2026-01-31, or 30d (ago)")
        what.add_argument("--before", type=moment, metavar="D", help="before this time")
        what.add_argument("--larger-than", type=size, metavar="SIZE", help="with more bytes than: 5000, 64k, 2M")
        what.add_argument("--role", help="with this role: user, assistant, tool, ...")
        what.add_argument(
            "--search",
            metavar="WORDS",
            help='with all these words in the first 60,000 characters; "phrases", -exclusions',
        )
        what.add_argument("--whole", action="store_true", help="the whole partition or instance, and its name")
        what.add_argument("--retention", action="store_true", help="what is older than its partition's retention")
        parser.add_argument("--dry-run", action="store_true", help="only show what would go")
        parser.add_argument("--yes", action="store_true", help="do not ask for confirmation")
        parser.add_argument("--json", action="store_true", help="print the counts as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        names = ("partition", "instance", "since", "before", "larger_than", "role", "search", "whole")
        given = {name: options[name] for name in names if options[name] not in (None, False)}
        if options["id"] is not None:
            given["ids"] = tuple(options["id"])
        if options["retention"]:
            if given:
                raise CommandError("--retention takes no other criteria: each partition has its own.")
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
        """Raise CommandError for an unknown name, which is probably misspelt."""
        if partition is not None and not Partition.objects.filter(name=partition).exists():
            raise CommandError(f"There is no partition {safe(partition)}.")
        places = Instance.objects.filter(partition__name=partition, name=instance)
        if partition is not None and instance is not None and not places.exists():
            raise CommandError(f"There is no instance {safe(instance)} in the partition {safe(partition)}.")

    def _ask(self, yes: bool) -> None:
        if yes:
            return
        if not sys.stdin.isatty():
            raise CommandError(
                "There is no terminal to ask for confirmation: give --yes to remove, or --dry-run to count."
            )
        self.stderr.write("Remove it for good? [y/N] ", str, ending="")
        if safe(input()).strip().lower() not in ("y", "yes"):
            raise CommandError("Nothing was removed.")
