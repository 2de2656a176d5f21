from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error

from proxy.spool.replaying import discard_rejected, spool_folder, store_spool, waiting
from proxy.spool.writing import SpoolError, summary


class Command(BaseCommand):
    help = "Exchanges on disk that the database has not stored yet, because it did not answer."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--folder",
            type=Path,
            help="the spool of another host: the folder `spool` of a server that has stopped, or a copy of it",
        )
        actions = parser.add_subparsers(dest="action", required=True, metavar="action")
        actions.add_parser("status", help="count the records waiting and those refused by the database, and their size")
        actions.add_parser("list", help="list the exchanges waiting, without their texts")
        actions.add_parser("replay", help="store them now, including those that the database refused before")
        actions.add_parser("discard", help="delete for good those that the database refuses")

    def handle(self, *args: Any, action: str, folder: Path | None, **options: Any) -> None:
        if folder is not None and not folder.is_dir():
            raise CommandError(f"There is no folder {folder}: name the folder `spool` of a RESERVOIR_HOME.")
        where = folder or spool_folder()
        if action == "status":
            counts = summary(where)
            self.stdout.write("{waiting} records wait, {rejected} are refused, {bytes} bytes".format(**counts))
        elif action == "list":
            for entry in waiting(where):
                kind = "answer" if entry.answered else "question"
                moment = entry.answered.finished if entry.answered else entry.asked.created
                scope = "/".join(quote(name, safe="") for name in entry.asked.scope)
                self.stdout.write(f"{moment:%Y-%m-%d %H:%M:%S}  {entry.asked.trace_id}  {kind:8}  {scope}")
        elif action == "replay":
            try:
                self.stdout.write(f"{store_spool(where)} records are stored")
            except SpoolError as error:
                raise CommandError(str(error)) from None
            except Error as error:
                reason = type(error).__name__
                raise CommandError(f"The database does not answer ({reason}): start it, then replay.") from None
        else:
            self.stdout.write(f"{discard_rejected(where)} records are deleted")
