from __future__ import annotations

import asyncio
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from conversations.management.terminal import Command as TerminalCommand
from conversations.management.terminal import safe
from proxy.demo import fake_provider


class Command(TerminalCommand):
    help = "Run a provider without a model or a key: it answers by quoting what it was given, memory included."
    examples = """
  the provider, and Reservoir in front of it in another terminal:
      manage.py fakeprovider --port 9000
      RSV_OPENAI_BASE_URL=http://127.0.0.1:9000/v1 manage.py serve

It listens on this machine only, speaks chat/completions (streamed or not) and models, accepts any key, and prints
the messages of each request. Its answer quotes the note or the earlier turn that shares the most words with the
question. It needs no database.
"""

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--port", type=int, default=9000, help="where to listen (default 9000; 0 takes a free port)"
        )
        parser.add_argument(
            "--delay",
            type=float,
            default=0.05,
            metavar="SECONDS",
            help="wait before each word of a stream (default 0.05)",
        )

    def handle(self, *args: Any, port: int, delay: float, **options: Any) -> None:
        asyncio.run(self._serve(port, delay))

    async def _serve(self, port: int, delay: float) -> None:
        try:
            async with fake_provider.serving(port, delay=delay, on_chat=self._print) as base_url:
                self.stdout.write(f"A provider that quotes what it is given listens at {base_url}\n")
                self.stdout.write(f"Start Reservoir in front of it: RSV_OPENAI_BASE_URL={base_url} script/server")
                self.stdout.flush()
                await asyncio.Event().wait()
        except (OSError, OverflowError) as error:
            raise CommandError(f"Port {port} cannot be used ({error}): choose another with --port.") from None

    def _print(self, body: dict[str, Any]) -> None:
        self.stdout.write(f"\nchat/completions, {safe(str(body.get('model')))}")
        for message in body["messages"]:
            self.stdout.write(f"{safe(str(message.get('role'))):>11}: {safe(str(message.get('content')))}")
        self.stdout.flush()
