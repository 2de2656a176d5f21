from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError
from django.utils import timezone

from conversations.management.terminal import Command as TerminalCommand
from conversations.messages import add_messages
from conversations.querysets import Scope
from conversations.turns import NAME_LENGTH, Turn


class Command(TerminalCommand):
    help = "Store what comes on standard input as one message, to be recalled like any other."
    examples = """
  a note for the user alice of my-app:
      echo "Alice prefers tea." | manage.py ingest --partition my-app --instance alice
  a file, as something the assistant said:
      manage.py ingest --role assistant --partition my-app --instance alice < summary.txt

The running server makes its vector. A system message is kept, but never recalled.
"""

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--role", choices=["user", "assistant", "system"], default="user", help="default: user")
        parser.add_argument("--partition", metavar="NAME", default="default", help="default: default")
        parser.add_argument("--instance", metavar="NAME", default="default", help="default: default")
        parser.add_argument("--json", action="store_true", help="print the message's id as JSON")

    def handle(self, *args: Any, role: str, partition: str, instance: str, **options: Any) -> None:
        for name in (partition, instance):
            if not name.strip() or len(name) > NAME_LENGTH or not name.isprintable():
                raise CommandError(f"A partition or instance has a printable name of 1 to {NAME_LENGTH} characters.")
        try:
            text = sys.stdin.buffer.read().decode().rstrip("\n")
        except UnicodeDecodeError:
            raise CommandError("What comes on standard input is not UTF-8: convert it, for example by iconv.") from None
        if not text.strip():
            raise CommandError("Nothing came on standard input: pipe a text into this command.")
        payload = {"role": role, "content": text}
        turn = Turn.from_payload(json.dumps(payload), payload)
        (pk,) = add_messages(scope=Scope(partition, instance), messages=[(turn, timezone.now())])
        if options["json"]:
            self.print_json({"id": pk, "partition": partition, "instance": instance})
        else:
            self.say(f"Stored in {partition}/{instance}.")
