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

from conversations.archive.foreign.importing import Foreign
from conversations.archive.reading import BadLine, Item, read, scope_name
from conversations.archive.storing import Importer
from conversations.embedding import active_model
from conversations.management.terminal import Command as TerminalCommand
from conversations.management.terminal import progress, scope_of

SHOWN = 20  # refused lines that are listed


class Command(TerminalCommand):
    help = (
        "Import an export of Reservoir, the original Reservoir, ChatGPT, Claude, Open WebUI or LibreChat.\n"
        "No message is imported twice."
    )
    examples = """
  import a file from `manage.py export`; run it again to continue an interrupted import:
      manage.py import history.jsonl
  import from another server:
      ssh there manage.py export --with-embeddings | manage.py import -
  import the valid lines of a file, and list the invalid ones:
      manage.py import history.json --skip-bad
  import what ChatGPT exported (conversations.json of the archive), each conversation as an instance of its own:
      manage.py import conversations.json --partition me
  import all chats of Open WebUI into the instance that your app uses:
      manage.py import chat-export.json --partition me --instance assistant
  import messages of your own, one conversation a line, {"messages": [{"role": "user", "content": "..."}, ...]}:
      manage.py import conversations.jsonl --partition me --instance assistant

Exports of other programs go into a partition with the program's name (chatgpt, claude, open-webui, librechat, or
imported for plain messages), and each conversation into an instance with its title and the beginning of its id, unless
--partition or --instance is given. Of a conversation with several branches the current one is read. System prompts,
hidden messages and empty ones are skipped. A later export of the same account adds only what is new.

The whole file is checked before anything is written. Vectors of the embedding model in use are imported; messages
without one are queued, and the running server embeds them. Exit code 1 if lines were refused.
"""

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", metavar="FILE", help="JSON Lines, an array or an object; - for standard input")
        parser.add_argument("--partition", metavar="NAME", help="for exports of other programs: import into it")
        parser.add_argument("--instance", metavar="NAME", help="all conversations into this instance of the partition")
        parser.add_argument("--skip-bad", action="store_true", help="skip invalid lines")
        parser.add_argument("--json", action="store_true", help="print the result as JSON")

    def handle(self, *args: Any, file: str, **options: Any) -> None:
        into = {what: name and _scope_name(what, name) for what, name in scope_of(options).items()}
        refused: list[BadLine] = []
        with ExitStack() as closing:
            stream = closing.enter_context(_opened(file))
            size = stream.seek(0, 2)
            for item in self._items(stream, size, "checking", into):
                if isinstance(item, BadLine):
                    refused.append(item)
            if refused and not options["skip_bad"]:
                self._list(refused)
                raise CommandError(f"{len(refused):,} lines are invalid; nothing was imported. See --skip-bad.")
            importer = Importer(embedding_model=active_model().name, refuse=refused.append)
            good = (item for item in self._items(stream, size, "importing", into) if isinstance(item, Item))
            for _ in importer.store(good):
                pass
        self._list(refused)
        done = importer.done
        if options["json"]:
            bad = [{"line": line.line, "reason": str(line)} for line in refused]
            self.print_json({**asdict(done), "refused": bad})
        else:
            self.say(
                f"{done.messages:,} messages imported, {done.known:,} already stored, "
                f"{len(refused):,} lines refused; {done.exchanges:,} exchanges, {done.embeddings:,} vectors."
            )
        if refused:
            raise CommandError("Some lines were refused; the others were imported.")

    def _items(self, stream: IO[bytes], size: int, what: str, into: dict[str, str | None]) -> Iterator[Item | BadLine]:
        bar, task = progress(what, total=size, unit="lines")
        stream.seek(0)
        with bar:
            for count, item in enumerate(read(stream, Foreign(into["partition"], into["instance"])), 1):
                yield item
                if count % 100 == 0:
                    bar.update(task, completed=stream.tell(), count=count)

    def _list(self, refused: list[BadLine]) -> None:
        for bad in refused[:SHOWN]:
            self.say(str(bad))
        if len(refused) > SHOWN:
            self.say(f"and {len(refused) - SHOWN:,} more")


def _scope_name(what: str, name: str) -> str:
    """A name for a scope, refused where a client could not use it. Raises CommandError."""
    try:
        return scope_name({what: name}, what)
    except ValueError as error:
        raise CommandError(f"--{error}.") from None


def _opened(file: str) -> IO[bytes]:
    """The file. Standard input and pipes are copied to a temporary file first, so that they can be read twice."""
    try:
        given = nullcontext(sys.stdin.buffer) if file == "-" else Path(file).open("rb")  # noqa: SIM115, closed below
        with ExitStack() as closing:
            stream = closing.enter_context(given)
            if file != "-" and stream.seekable():
                closing.pop_all()  # the caller closes it
                return stream
            kept = tempfile.TemporaryFile()  # noqa: SIM115, the same
            shutil.copyfileobj(stream, kept)
            return kept
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}.") from None
