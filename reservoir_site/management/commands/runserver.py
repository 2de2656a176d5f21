from typing import Any

from django.conf import settings
from django.core.management.base import CommandError
from django.core.management.commands.runserver import Command as DjangoRunserver

from reservoir_site import database, server


class Command(DjangoRunserver):
    help = "Run Reservoir for development: like `serve`, with a restart whenever the code changes."
    default_port = str(settings.RESERVOIR_PORT)
    default_addr = settings.RESERVOIR_BIND
    addr: str
    port: str

    def run(self, **options: Any) -> None:
        if self.addr not in ("127.0.0.1", "localhost", "::1", settings.RESERVOIR_BIND):
            raise CommandError(
                f"To serve on {self.addr}, set RESERVOIR_EXPOSE_EVERY_PARTITION_TO_WHOEVER_REACHES={self.addr}."
            )
        database.reach()  # the reloader holds it too, so that it survives each reload
        settings.RESERVOIR_BIND, settings.RESERVOIR_PORT = self.addr, int(self.port)
        settings.RESERVOIR_WORKERS = 1
        super().run(**options)

    def inner_run(self, *args: Any, **options: Any) -> None:
        server.prepare(self.stdout.write)
        server.announce(self.stdout.write)
        server.run()
