from __future__ import annotations

import asyncio
from argparse import ArgumentParser
from typing import Any
from urllib.parse import quote

from django.core.management.base import BaseCommand, CommandError

from proxy.call import scope_name
from proxy.errors import ReservoirError
from proxy.memory.service import Scope


class Command(BaseCommand):
    help = "Serve the memory of one scope as MCP tools on standard input and output, for an assistant on this machine."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--partition", required=True, help="the partition whose memory the tools use")
        parser.add_argument("--instance", required=True, help="the instance in it")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            scope = Scope(*(_name(options[what], what) for what in ("partition", "instance")))
        except ReservoirError as error:
            raise CommandError(error.message) from None
        asyncio.run(_serve(scope))


def _name(given: str, what: str) -> str:
    """The name as it is given, if a scope may have it. Raises BadRequest."""
    return scope_name(quote(given, safe="", errors="surrogateescape"), what)


async def _serve(scope: Scope) -> None:
    from proxy import runtime
    from proxy.mcp.assistant import Assistant
    from proxy.mcp.tools import server

    running = await runtime.start()
    try:
        await server(lambda _: Assistant(scope)).run_stdio_async()
    finally:
        await running.stop()
