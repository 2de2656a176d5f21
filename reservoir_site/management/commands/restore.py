from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from reservoir_site.backup import BackupError, restore
from reservoir_site.server import prepare_database


class Command(BaseCommand):
    help = "Replace the embedded database with a backup. Stop the server first."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, help="a file that `manage.py backup` wrote")

    def handle(self, *args: Any, file: Path, **options: Any) -> None:
        try:
            restore(file)
        except BackupError as error:
            raise CommandError(str(error)) from None
        prepare_database()  # migrates a backup of an older Reservoir
        self.stdout.write(f"{file} is restored")
