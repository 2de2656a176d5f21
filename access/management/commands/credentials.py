from __future__ import annotations

import getpass
import sys
from argparse import ArgumentParser
from typing import Any

from cryptography.fernet import Fernet
from django.core.management.base import CommandError

from access import credentials
from access.audit import COMMAND_LINE, Who
from access.credentials import CredentialProblem
from access.models import Credential
from conversations.management.terminal import Command as TerminalCommand
from conversations.management.terminal import safe


class Command(TerminalCommand):
    help = "Keep providers' credentials, encrypted, for access keys to use."
    examples = """
  a key to encrypt them with, for RESERVOIR_CREDENTIAL_KEYS or the file that RESERVOIR_CREDENTIAL_KEYS_FILE names:
      manage.py credentials new-key
  keep OpenAI's key; it is read from standard input or asked for, never taken from the command line:
      manage.py credentials set team-openai openai < key.txt
  an access key whose requests to OpenAI carry it:
      manage.py key create shop --partition shop --credential team-openai
  put a new encryption key before the old one in the setting, restart, then:
      manage.py credentials rotate
"""

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="set|list|rotate|remove|new-key")
        setting = actions.add_parser("set", help="keep one, in place of one of the same name")
        setting.add_argument("name")
        setting.add_argument("provider", help="as `manage.py providers` names it")
        actions.add_parser("list", help="show their names and providers")
        actions.add_parser("rotate", help="encrypt all of them anew with the first key of RESERVOIR_CREDENTIAL_KEYS")
        actions.add_parser("remove", help="delete one that no access key uses").add_argument("name")
        actions.add_parser("new-key", help="print a new key for RESERVOIR_CREDENTIAL_KEYS")

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        who = Who(actor=COMMAND_LINE)
        try:
            if action == "set":
                credentials.put(options["name"], options["provider"], _secret(), who)
                self.stdout.write("Kept.")
            elif action == "list":
                for row in Credential.objects.all():
                    self.stdout.write(safe(f"{row.name}: {row.provider}, since {row.changed:%Y-%m-%d %H:%M}"))
            elif action == "rotate":
                self.stdout.write(f"{credentials.rotate(who)} credentials are encrypted anew.")
            elif action == "remove":
                credentials.remove(options["name"], who)
                self.stdout.write("Removed.")
            else:
                self.stdout.write(Fernet.generate_key().decode())
        except CredentialProblem as problem:
            raise CommandError(str(problem)) from None


def _secret() -> str:
    return (getpass.getpass("Credential: ") if sys.stdin.isatty() else sys.stdin.read()).strip()
