from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError
from django.db import DatabaseError

from conversations import catalog
from conversations.distribution import NoPlace, places, steps
from conversations.management.terminal import Command as TerminalCommand


class Command(TerminalCommand):
    help = "Distribute the tables by scope over the nodes of a Citus cluster."
    examples = """
  see what would be done:
      manage.py distribute --dry-run
  do it, with all servers stopped:
      manage.py distribute

Run it on the coordinator, after `migrate`. It copies all rows to the workers in one transaction. Running it again
does what is left, such as tables of a later version; docs/scaling.md says more.
"""

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="print the statements, and run none")

    def handle(self, *args: Any, dry_run: bool, **options: Any) -> None:
        if not catalog.has_citus():
            raise CommandError("This PostgreSQL has no Citus: one server needs no distribution. See docs/scaling.md.")
        if not catalog.is_coordinator():
            raise CommandError(
                "This node is not a coordinator that its workers know: connect to the coordinator, and run "
                "SELECT citus_set_coordinator_host('HOST', PORT) there once."
            )
        try:
            done = steps(catalog.read()) if dry_run else catalog.distribute()
        except NoPlace as error:
            raise CommandError(str(error)) from None
        except DatabaseError as error:
            raise CommandError(f"Nothing was changed. Citus says: {str(error).splitlines()[0]}") from None
        if dry_run:
            self.stdout.write(";\n".join([*done, ""]) if done else "Nothing is left to do.")
            return
        if not done:
            self.stdout.write("Nothing is left to do.")
            return
        where = places(catalog.read())
        distributed, copied = len(where.distributed), len(where.copied)
        self.stdout.write(f"{distributed} tables are distributed by scope, and {copied} are copied to every node.")
