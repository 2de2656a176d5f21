from __future__ import annotations

import os
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from conversations.archive.markdown import as_markdown
from conversations.archive.writing import as_array, as_lines, export
from conversations.management.terminal import Command as TerminalCommand
from conversations.management.terminal import add_scope, moment, progress, scope_of
from conversations.models import Message

FORMATS = {"jsonl": as_lines, "json": as_array, "markdown": as_markdown}


class Command(TerminalCommand):
    help = "Export stored messages as JSON to standard output or a file, in constant memory."
    examples = """
  export everything, with vectors, to a file for `manage.py import`:
      manage.py export --with-embeddings -o history.jsonl
  export one user's history:
      manage.py export --partition my-app --instance alice > alice.jsonl
  export the last month, compressed:
      manage.py export --since 30d | gzip > month.jsonl.gz
  export one array, in the format of the original Reservoir:
      manage.py export --format json -o history.json

  export one conversation for people to read:
      manage.py export --partition my-app --instance alice --format markdown > alice.md

jsonl has one message a line and loses nothing. json has the same objects in one array, without exchanges that have no
message of their own. markdown cannot be imported. The file contains conversations: protect it like the database.
"""

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_scope(parser)
        parser.add_argument("--since", type=moment, metavar="D", help="only messages since D: 2026-01-31, or 30d")
        parser.add_argument("--format", choices=list(FORMATS), default="jsonl", help="default: jsonl")
        parser.add_argument("--with-embeddings", action="store_true", help="include vectors, to import them too")
        parser.add_argument(
            "-o", "--output", type=Path, metavar="FILE", help="write to FILE instead of standard output"
        )

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

        texts = FORMATS[options["format"]](counted())
        with bar, closing(objects):
            try:
                if file is None:
                    for text in texts:
                        self.stdout.write(text, ending="")
                    self.stdout.flush()
                else:
                    _write(file, texts)
            except BrokenPipeError:
                raise  # manage.py handles it
            except OSError as error:
                raise CommandError(f"{file or 'Standard output'} cannot be written: {error.strerror}.") from None
        self.say(f"{count:,} messages exported.")


def _write(file: Path, texts: Iterator[str]) -> None:
    """Write a file for its owner only, which is complete once it exists. Devices and pipes are not replaced."""
    if file.exists() and not file.is_file():
        with file.open("w", encoding="utf-8") as out:
            out.writelines(texts)
        return
    file = file.resolve()  # keep a symbolic link
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with open(draft, "w", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, 0o600)) as out:
            out.writelines(texts)
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)
