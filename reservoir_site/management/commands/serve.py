from typing import Any

from django.core.management.base import BaseCommand

from reservoir_site import server


class Command(BaseCommand):
    help = "Run Reservoir: start and migrate the database, then serve until stopped."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        say = self.stdout.write
        server.check_port()
        server.prepare(say)
        server.announce(say)
        self.stdout.flush()
        server.run()
