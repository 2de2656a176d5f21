from typing import Any

from django.conf import settings
from django.core.management.base import CommandError
from django.core.management.commands.runserver import Command as DjangoRunserver

from reservoir_site import database, env, server


class Command(DjangoRunserver):
    help = "Run Reservoir for development: like `serve`, with a restart whenever the code changes."
    default_port = str(settings.RESERVOIR_PORT)
    default_addr = settings.RESERVOIR_BIND
    addr: str
    port: str

    def run(self, **options: Any) -> None:
        if not env.is_loopback(self.addr) and self.addr != settings.RESERVOIR_BIND:
            raise CommandError(f"To serve on {self.addr}, set RESERVOIR_LISTEN={self.addr}.")
        database.reach()  # the reloader holds it too, so that it survives each reload
        settings.RESERVOIR_BIND, settings.RESERVOIR_PORT = self.addr, int(self.port)
        settings.RESERVOIR_WORKERS = 1
        super().run(**options)

    def inner_run(self, *args: Any, **options: Any) -> None:
        server.prepare(self.stdout.write)
        server.announce(self.stdout.write)
        server.run()
