from __future__ import annotations

import asyncio
import json
import logging
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from typing import Any

from django.conf import settings
from django.utils import timezone
from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from conversations.management.terminal import Command as TerminalCommand
from conversations.management.terminal import safe
from conversations.scratch import scratch_partition
from proxy.demo import tour
from proxy.demo.tour import Stop
from proxy.memory.service import Scope

SIDE_BY_SIDE = 100  # columns of a terminal that has room for two panels
SHOWN_TURNS = 3
SHOWN_CANDIDATES = 5
ROLES = {"user": "cyan", "assistant": "green", "system": "yellow"}


class Command(TerminalCommand):
    help = "Show what Reservoir does, without a key: what an app sends, and what the model receives."
    examples = """
  a tour of one minute, which leaves nothing behind:
      manage.py demo
  the same, kept to be inspected in the admin and forgotten by manage.py prune:
      manage.py demo --keep

Mira has talked with her assistant for six weeks. Today her app starts anew and asks three questions. They go through
the real pipeline to a provider on this machine that has no model: it quotes what it was given. Nothing leaves the
machine.
"""

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--keep", action="store_true", help="keep the conversation, in the partition demo")

    def handle(self, *args: Any, keep: bool, **options: Any) -> None:
        settings.RESERVOIR_RECALL_DEADLINE_MS = 10_000  # no client is waiting, and everything is cold
        logging.getLogger("proxy").setLevel(logging.ERROR)
        console = self.console()
        with _scope(keep) as scope:
            asyncio.run(_show(console, scope))
        if keep:
            where = f"http://localhost:{settings.RESERVOIR_PORT}/admin/"
            console.print(f"Kept in {scope.partition}/{scope.instance}: see {where} while the server runs.")
            console.print(f"Forget it: manage.py prune --partition demo --instance {scope.instance} --whole")
        else:
            console.print("Nothing was left behind.")


@contextmanager
def _scope(keep: bool) -> Iterator[Scope]:
    if keep:
        yield Scope("demo", f"mira-{timezone.now():%Y%m%d-%H%M%S}")
    else:
        with scratch_partition() as partition:
            yield Scope(partition, "mira")


async def _show(console: Console, scope: Scope) -> None:
    def began() -> None:
        console.print(
            Text.assemble(
                ("Mira", "bold cyan"),
                f" has told her assistant {tour.history_size()} messages' worth of things over six weeks. Today "
                "her app starts anew: it sends one question, and no history.",
            )
        )

    number = 0
    async with aclosing(tour.tour(scope, began)) as stops:
        async for stop in stops:
            number += 1
            console.print()
            console.print(Rule(Text(f" {number} ", style="bold"), style="dim"))
            _print_stop(console, stop)
    console.print()
    console.print(
        Text.assemble(
            ("That is all. ", "bold"),
            "Point your app at ",
            (f"http://localhost:{settings.RESERVOIR_PORT}/v1/partition/…/instance/…", "cyan"),
            ", and its conversations have a memory.",
        )
    )


def _print_stop(console: Console, stop: Stop) -> None:
    sent = Panel(_app_sent(stop), title="what the app sent", border_style="cyan", box=box.ROUNDED, padding=(1, 2))
    got = Panel(_model_got(stop), title="what the model got", border_style="yellow", box=box.ROUNDED, padding=(1, 2))
    if console.width >= SIDE_BY_SIDE:
        grid = Table.grid(expand=True, padding=(0, 1))
        grid.add_column(ratio=2)
        grid.add_column(ratio=3)
        grid.add_row(sent, got)
        console.print(grid)
    else:
        console.print(sent)
        console.print(got)
    console.print(Padding(Text.assemble(("the answer  ", "bold green"), safe(stop.answer)), (0, 2)))
    console.print(Padding(_ledger(stop), (1, 2, 0, 2)))
    console.print(Padding(Text(_in_numbers(stop), style="dim"), (0, 2)))


def _app_sent(stop: Stop) -> RenderableType:
    return Text(json.dumps(stop.sent, indent=2, ensure_ascii=False))


def _model_got(stop: Stop) -> RenderableType:
    """The messages, the added ones coloured; of the latest turns only the last few."""
    own = len(stop.got) - len(stop.sent)
    turns = [message for message in stop.got[:own] if message["role"] != "system"]
    notes = [message for message in stop.got[:own] if message["role"] == "system"]
    parts: list[RenderableType] = []
    if turns:
        parts.append(Text(f"the latest {len(turns)} messages, as turns", style="dim italic"))
        if len(turns) > SHOWN_TURNS:
            parts.append(Text(f"… {len(turns) - SHOWN_TURNS} more", style="dim"))
        parts += [_line(message, dim=True) for message in turns[-SHOWN_TURNS:]]
        parts.append(Text())
    if notes:
        parts.append(Text("memories relevant to the question, found in the whole history", style="italic yellow"))
        parts += [Text(safe(str(message["content"])), style="yellow") for message in notes]
        parts.append(Text())
    parts.append(Text("the question, as the app sent it", style="dim italic"))
    parts += [_line(message) for message in stop.got[own:]]
    return Group(*parts)


def _line(message: dict[str, Any], *, dim: bool = False) -> Text:
    role = str(message["role"])
    return Text.assemble(
        (f"{role:<10}", f"{'dim ' if dim else 'bold '}{ROLES.get(role, 'white')}"),
        (safe(str(message["content"])), "dim" if dim else ""),
        no_wrap=dim,
        overflow="ellipsis",
    )


def _ledger(stop: Stop) -> RenderableType:
    title = "why: the ledger, kept with every exchange"
    table = Table(box=None, pad_edge=False, header_style="dim", title=title, expand=True)
    table.title_style, table.title_justify = "dim italic", "left"
    table.add_column("score", justify="right", min_width=5)
    table.add_column("", min_width=1)
    table.add_column("message", no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column("why", ratio=1)
    for each in stop.considered[:SHOWN_CANDIDATES]:
        style = "" if each.kept else "dim"
        mark = Text("✓", style="bold yellow") if each.kept else Text(" ")
        table.add_row(f"{each.score:.2f}", mark, Text(safe(each.text)), Text(safe(each.why)), style=style)
    return table


def _in_numbers(stop: Stop) -> str:
    headers = stop.headers
    phases = dict(part.split(";dur=") for part in headers["server-timing"].split(", "))
    return (
        f"{len(stop.considered)} messages considered, {headers['x-reservoir-memories']} added, "
        f"{headers['x-reservoir-memory-tokens']} tokens; recall took {phases['recall']} ms"
    )
