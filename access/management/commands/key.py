from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError
from django.utils import timezone
from rich import box
from rich.table import Table
from rich.text import Text

from access import keys
from access.audit import COMMAND_LINE, Who
from access.keys import KeyProblem, Wanted
from access.management.arguments import add_limits, ahead, limits_of, span
from access.models import AccessKey
from access.rights import APP, Right
from conversations.management.terminal import Command as TerminalCommand
from conversations.management.terminal import safe

ONCE = "This is the only time that the key is shown: keep it where your app keeps its secrets."
FIRST = (
    "It is the first: within 5 seconds, every request to the API needs a key, also on this machine, and revoking all "
    "keys does not change that. The admin and these commands go on without one."
)


class Command(TerminalCommand):
    help = "Create, list, limit, rotate and revoke access keys."
    wide = True
    examples = """
  a key with which an app uses the models and the memory of its partition:
      manage.py key create shop --partition shop --owner team-shop@example.com
  the same, for the instances team/... of two partitions, for 90 days:
      manage.py key create pilot --partition shop --partition help --instance 'team/*' --expires 90d
  a key that may also read and forget:
      manage.py key create support --partition shop --right complete --right recall --right read --right forget
  at most 60 requests a minute, and 20 dollars a month:
      manage.py key limit shop --requests 60 --dollars 20
  a new secret; the old one works for two more days:
      manage.py key rotate shop --overlap 2d
  refuse it from now on, on every server within 5 seconds:
      manage.py key revoke shop

An app sends its key as `Authorization: Bearer rsv_...` or `x-api-key: rsv_...`, or, beside a provider's key of its own,
as `X-Reservoir-Key: rsv_...`. Once a key exists, requests need one.

Rights: complete (ask models), relay (other routes of the provider, such as files: all who use its key share them),
recall (see what would be recalled), read (stored conversations), forget, export, manage (figures of the server).
A star stands for all names, team/* for all that begin with team/.
"""

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="create|list|limit|rotate|revoke")
        create = actions.add_parser("create", help="make a key and print it")
        create.add_argument("name", help="for people; unique among the keys that are not revoked")
        create.add_argument("--partition", action="append", required=True, metavar="NAME", help="may be repeated")
        create.add_argument("--instance", action="append", metavar="NAME", help="may be repeated; without it, all")
        create.add_argument(
            "--right", action="append", choices=list(Right), help=f"may be repeated; without it, {' and '.join(APP)}"
        )
        create.add_argument("--owner", default="", help="who answers for it: a team, an address")
        create.add_argument("--credential", action="append", default=[], metavar="NAME", help="see `credentials`")
        create.add_argument("--expires", type=ahead, metavar="TIME", help="2027-01-31, or after a span such as 90d")
        add_limits(create)
        limit = actions.add_parser("limit", help="set the limits of a key; those that are not given end")
        add_limits(limit)
        listing = actions.add_parser("list", help="show all keys, without their secrets")
        listing.add_argument("--json", action="store_true", help="print JSON")
        rotate = actions.add_parser("rotate", help="give a key a new secret and print it")
        rotate.add_argument("--overlap", type=span, default=keys.OVERLAP, metavar="SPAN", help="24h unless given")
        for parser in (rotate, limit, actions.add_parser("revoke", help="refuse a key for good")):
            parser.add_argument("key", metavar="NAME", help="its name or its public id")

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        try:
            if action == "create":
                self._create(options)
            elif action == "list":
                self._list(options["json"])
            elif action == "rotate":
                self._show(keys.rotate(keys.find(options["key"]), _who(), overlap=options["overlap"]).text)
            elif action == "limit":
                keys.limit(keys.find(options["key"]), limits_of(options), _who())
                self.stdout.write("Set: every server follows within 5 seconds.")
            else:
                keys.revoke(keys.find(options["key"]), _who())
                self.stdout.write("Revoked: every server refuses it within 5 seconds.")
        except KeyProblem as problem:
            raise CommandError(str(problem)) from None

    def _create(self, options: dict[str, Any]) -> None:
        wanted = Wanted(
            name=options["name"],
            owner=options["owner"],
            rights=[Right(right) for right in options["right"] or APP],
            partitions=options["partition"],
            instances=options["instance"] or ["*"],
            expires=options["expires"],
            limits=limits_of(options),
            credentials=options["credential"],
        )
        self._show(keys.create(wanted, _who()).text)
        if AccessKey.objects.count() == 1:
            self.say(FIRST)

    def _show(self, text: str) -> None:
        """The key alone on stdout, for scripts; the advice beside it."""
        self.stdout.write(text)
        self.say(ONCE)

    def _list(self, as_json: bool) -> None:
        rows = list(AccessKey.objects.order_by("revoked", "name"))
        if as_json:
            self.print_json([_told(row) for row in rows])
            return
        table = Table(box=box.SIMPLE)
        for column in ("name", "id", "state", "rights", "partitions", "instances", "owner", "last used"):
            table.add_column(column)
        for row in rows:
            told = _told(row)
            cells = (
                row.name,
                row.public_id,
                _state(row),
                *(", ".join(told[many]) for many in ("rights", "partitions", "instances")),
                row.owner,
                f"{row.last_used:%Y-%m-%d %H:%M}" if row.last_used else "never",
            )
            table.add_row(*(Text(safe(cell)) for cell in cells))
        self.console().print(table)


def _who() -> Who:
    return Who(actor=COMMAND_LINE)


def _state(row: AccessKey) -> str:
    now = timezone.now()
    if row.revoked:
        return "revoked"
    if row.expires and row.expires <= now:
        return "expired"
    if row.previous_until and row.previous_until > now:
        return f"rotated, the old secret works until {row.previous_until:%Y-%m-%d %H:%M}"
    return f"works until {row.expires:%Y-%m-%d %H:%M}" if row.expires else "works"


def _told(row: AccessKey) -> dict[str, Any]:
    times = {name: getattr(row, name) for name in ("created", "expires", "revoked", "last_used")}
    return {
        "name": row.name,
        "id": row.public_id,
        "owner": row.owner,
        "state": _state(row),
        "rights": row.rights,
        "partitions": row.partitions,
        "instances": row.instances,
        "limits": keys.told(row.limits),
        **{name: moment and moment.isoformat() for name, moment in times.items()},
    }
