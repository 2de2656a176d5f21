from __future__ import annotations

from typing import Any, ClassVar

from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from conversations.management.terminal import Command as TerminalCommand
from conversations.management.terminal import safe
from proxy.providers import configuration


class Command(TerminalCommand):
    help = "Show the provider that a model's name goes to, and why; without a name, all providers."
    examples: ClassVar[str] = """
  manage.py providers                      the providers, their addresses, and whether a key is set
  manage.py providers qwen/qwen3-32b       where a request with this model goes, and as what
"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("model", nargs="?", help="a model's name as a client writes it")

    def handle(self, *args: Any, model: str | None, **options: Any) -> None:
        try:
            providers = configuration.from_environment(settings.RESERVOIR_ENVIRONMENT)
        except ValueError as error:
            raise CommandError(str(error)) from None
        if model is None:
            for provider in providers.all():
                mark = " (default)" if provider is providers.default else ""
                key = "key set" if provider.key else "no key: the client's own is sent"
                self.stdout.write(f"{provider.name}{mark}: {provider.base_url}, {key}")
            return
        target = providers.select(model)
        self.stdout.write(f"{safe(model)} goes to {target.provider.name} at {target.provider.base_url}")
        self.stdout.write(f"as {safe(target.model)}: {safe(target.why)}.")
