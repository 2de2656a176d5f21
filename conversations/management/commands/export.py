from __future__ import annotations

import os
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from conversations.archive.writing import as_array, as_lines, export
from conversations.management.terminal import Command as TerminalCommand
from conversations.management.terminal import add_scope, moment, progress, scope_of
from conversations.models import Message


class Command(TerminalCommand):
    help = "Write what is remembered to standard output or a file, as JSON, in constant memory."
    examples = """
  everything, with the vectors, into a file that `manage.py import` reads:
      manage.py export --with-embeddings -o history.jsonl
  one user's history:
      manage.py export --partition my-app --instance alice > alice.jsonl
  the last month, packed:
      manage.py export --since 30d | gzip > month.jsonl.gz
  one array, in the form of the original Reservoir:
      manage.py export --format json -o history.json

jsonl has one message a line and loses nothing. json has the same objects in one array, without exchanges that brought
no message. The file holds conversations: keep it as you keep the database.
"""

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_scope(parser)
        parser.add_argument("--since", type=moment, metavar="D", help="only what was said since: 2026-01-31, or 30d")
        parser.add_argument("--format", choices=["json", "jsonl"], default="jsonl", help="default: jsonl")
        parser.add_argument("--with-embeddings", action="store_true", help="vectors too, so that none is made again")
        parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="a file in place of standard output")

    def handle(self, *args: Any, **options: Any) -> None:
        scope, file = scope_of(options), options["output"]
        objects = export(
            **scope,
            since=options["since"],
            embeddings=options["with_embeddings"],
            exchanges=options["format"] == "jsonl",
        )
        total = Message.objects.within(**scope).between(options["since"]).count()
        bar, task = progress("exporting", total=total)
        count = 0

        def counted() -> Iterator[dict[str, Any]]:
            nonlocal count
            for each in objects:
                yield each
                count += "role" in each
                if count % 100 == 0:
                    bar.update(task, completed=count, count=count)

        texts = as_lines(counted()) if options["format"] == "jsonl" else as_array(counted())
        with bar, closing(objects):
            try:
                if file is None:
                    for text in texts:
                        self.stdout.write(text, ending="")
                    self.stdout.flush()
                else:
                    _write(file, texts)
            except BrokenPipeError:
                raise  # manage.py sees to it
            except OSError as error:
                raise CommandError(f"{file or 'Standard output'} cannot be written: {error.strerror}.") from None
        self.say(f"{count:,} messages exported.")


def _write(file: Path, texts: Iterator[str]) -> None:
    """A file that is there is whole; nobody else can read it. A device or a pipe is written to, never replaced."""
    if file.exists() and not file.is_file():
        with file.open("w", encoding="utf-8") as out:
            out.writelines(texts)
        return
    file = file.resolve()  # a link stays one
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with open(draft, "w", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, 0o600)) as out:
            out.writelines(texts)
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)
