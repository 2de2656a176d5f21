from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error

from proxy.spool.replaying import discard_rejected, spool_folder, store_spool
from proxy.spool.writing import SpoolError, summary


class Command(BaseCommand):
    help = "Exchanges on disk that the database has not stored yet, because it did not answer."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="action")
        actions.add_parser("status", help="count the records waiting and those refused by the database, and their size")
        actions.add_parser("replay", help="store them now, including those that the database refused before")
        actions.add_parser("discard", help="delete for good those that the database refuses")

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        if action == "status":
            counts = summary(spool_folder())
            self.stdout.write("{waiting} records wait, {rejected} are refused, {bytes} bytes".format(**counts))
        elif action == "replay":
            try:
                self.stdout.write(f"{store_spool()} records are stored")
            except SpoolError as error:
                raise CommandError(str(error)) from None
            except Error as error:
                reason = type(error).__name__
                raise CommandError(f"The database does not answer ({reason}): start it, then replay.") from None
        else:
            self.stdout.write(f"{discard_rejected(spool_folder())} records are deleted")
