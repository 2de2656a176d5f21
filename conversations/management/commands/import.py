# ruff: noqa: N999 - the command is called import
from __future__ import annotations

import shutil
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from django.core.management.base import CommandError

from conversations.archive.reading import BadLine, Item, read
from conversations.archive.storing import Importer
from conversations.embedding import active_model
from conversations.management.terminal import Command as TerminalCommand
from conversations.management.terminal import progress

SHOWN = 20  # of the lines that are refused


class Command(TerminalCommand):
    help = "Read an export, ours or the original Reservoir's, into the memory. Nothing is imported twice."
    examples = """
  what `manage.py export` wrote; started again after it was stopped, it goes on where it was:
      manage.py import history.jsonl
  from another server:
      ssh there manage.py export --with-embeddings | manage.py import -
  a file with lines that are no messages: import the good ones, list the others:
      manage.py import history.json --skip-bad

The whole file is checked before anything is written. Vectors of the embedding model in use are taken over; messages
without one are queued, and embedded by the running server. Exit code 1 when lines were refused.
"""

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", metavar="FILE", help="JSON Lines or one JSON array; - for standard input")
        parser.add_argument("--skip-bad", action="store_true", help="leave out lines that are no messages")
        parser.add_argument("--json", action="store_true", help="print what was done as JSON")

    def handle(self, *args: Any, file: str, **options: Any) -> None:
        refused: list[BadLine] = []
        with ExitStack() as closing:
            stream = closing.enter_context(_opened(file))
            size = stream.seek(0, 2)
            for item in self._items(stream, size, "checking"):
                if isinstance(item, BadLine):
                    refused.append(item)
            if refused and not options["skip_bad"]:
                self._list(refused)
                raise CommandError(f"{len(refused):,} lines are no messages; nothing was imported. See --skip-bad.")
            importer = Importer(embedding_model=active_model().name, refuse=refused.append)
            good = (item for item in self._items(stream, size, "importing") if isinstance(item, Item))
            for _ in importer.store(good):
                pass
        self._list(refused)
        done = importer.done
        if options["json"]:
            bad = [{"line": line.line, "reason": str(line)} for line in refused]
            self.print_json({**asdict(done), "refused": bad})
        else:
            self.say(
                f"{done.messages:,} messages imported, {done.known:,} were there already, "
                f"{len(refused):,} lines refused; {done.exchanges:,} exchanges, {done.embeddings:,} vectors."
            )
        if refused:
            raise CommandError("Lines were refused; the others are imported.")

    def _items(self, stream: IO[bytes], size: int, what: str) -> Iterator[Item | BadLine]:
        bar, task = progress(what, total=size, unit="lines")
        stream.seek(0)
        with bar:
            for count, item in enumerate(read(stream), 1):
                yield item
                if count % 100 == 0:
                    bar.update(task, completed=stream.tell(), count=count)

    def _list(self, refused: list[BadLine]) -> None:
        for bad in refused[:SHOWN]:
            self.say(str(bad))
        if len(refused) > SHOWN:
            self.say(f"and {len(refused) - SHOWN:,} more")


def _opened(file: str) -> IO[bytes]:
    """The file, or what standard input or a pipe gives, kept on disk so that it can be read twice."""
    try:
        given = nullcontext(sys.stdin.buffer) if file == "-" else Path(file).open("rb")  # noqa: SIM115, closed below
        with ExitStack() as closing:
            stream = closing.enter_context(given)
            if file != "-" and stream.seekable():
                closing.pop_all()  # whoever asked closes it
                return stream
            kept = tempfile.TemporaryFile()  # noqa: SIM115, the same
            shutil.copyfileobj(stream, kept)
            return kept
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}.") from None
