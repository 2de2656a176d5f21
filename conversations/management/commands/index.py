from __future__ import annotations

from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandError
from rich import box
from rich.table import Table
from rich.text import Text

from conversations import indexes
from conversations.embedding import active_model
from conversations.indexes import LargeScope
from conversations.management.progress import bars
from conversations.management.terminal import Command as TerminalCommand
from conversations.management.terminal import safe
from conversations.models import EmbeddingModel, Instance
from conversations.querysets import Scope

STATES = {None: "none", False: "unfinished: create it again", True: "ready"}


class Command(TerminalCommand):
    help = "List, create, drop and measure the vector indexes of large scopes."
    wide = True
    examples = """
  list large scopes and their indexes:
      manage.py index list
  create the missing indexes before the server starts:
      manage.py index create --all-earned
  measure what an index misses on your own data:
      manage.py index measure my-app alice --queries 200
  drop one index, or those of scopes and models that no longer exist:
      manage.py index drop my-app alice
      manage.py index drop --useless

A running server creates the indexes that scopes have earned, without interrupting traffic.
"""

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("do", choices=["list", "create", "drop", "measure"])
        parser.add_argument("scope", nargs="*", metavar="PARTITION INSTANCE")
        parser.add_argument("--all-earned", action="store_true", help="create: for every scope that is large enough")
        parser.add_argument("--useless", action="store_true", help="drop: those of scopes and models that are gone")
        parser.add_argument("--queries", type=int, default=100, metavar="N", help="measure: the number of searches")
        parser.add_argument("--json", action="store_true", help="list, measure: print JSON")

    def handle(self, *args: Any, do: str, scope: list[str], **options: Any) -> None:
        model = active_model()
        if do == "list":
            self._list(model, options["json"])
        elif do == "create" and options["all_earned"]:
            self._create(model, indexes.without_index(model))
        elif do == "drop" and options["useless"]:
            self.stdout.write(f"{indexes.drop_useless()} indexes dropped.")
        elif len(scope) != 2:
            more = {"create": ", or --all-earned", "drop": ", or --useless"}.get(do, "")
            raise CommandError(f"Name a scope: manage.py index {do} PARTITION INSTANCE{more}.")
        else:
            self._one(do, model, Scope(*scope), options["queries"], options["json"])

    def _one(self, do: str, model: EmbeddingModel, scope: Scope, queries: int, as_json: bool) -> None:
        instance = Instance.objects.of_scope(scope).first()
        if instance is None:
            raise CommandError(f"There is no instance {scope.instance!r} in a partition {scope.partition!r}.")
        if do == "drop":
            indexes.drop(instance.pk, model.pk)
            self.stdout.write("Dropped.")
            return
        known = {large.instance_id: large for large in indexes.large_scopes(model)}
        if do == "create":
            if instance.message_count <= indexes.EARNED:
                raise CommandError(
                    f"A scope of {instance.message_count} messages is read whole, which is faster and exact: "
                    f"only scopes of more than {indexes.EARNED} get an index."
                )
            self._create(model, [known[instance.pk]])
            return
        if instance.pk not in known or not known[instance.pk].valid:
            raise CommandError("This scope has no index: create one with manage.py index create.")
        found = indexes.measure(instance.pk, model, queries=max(1, queries))
        if as_json:
            self.print_json(asdict(found))
            return
        self.stdout.write(
            f"Of the 10 nearest vectors to each of {found.queries}, the index finds {100 * found.recall:.1f} %, in "
            f"{found.index_ms:.1f} ms each (median); exact search takes {found.exact_ms:.1f} ms."
        )

    def _create(self, model: EmbeddingModel, scopes: list[LargeScope]) -> None:
        with bars() as progress:
            for large in progress.track(scopes, description="building"):
                if not indexes.create(large.instance_id, model):
                    raise CommandError("Another process is creating an index: wait until it is done.")
        self.stdout.write(f"{len(scopes)} indexes created.")

    def _list(self, model: EmbeddingModel, as_json: bool) -> None:
        scopes = indexes.large_scopes(model)
        if as_json:
            self.print_json([_told(large) for large in scopes])
            return
        table = Table(box=box.SIMPLE)
        for at, column in enumerate(("partition", "instance", "messages", "index", "MB")):
            table.add_column(column, justify="right" if at in (2, 4) else "left")
        for large in scopes:
            names = (Text(safe(name)) for name in large.scope)
            table.add_row(*names, str(large.messages), STATES[large.valid], f"{large.bytes / 2**20:.0f}")
        self.console().print(table)
        self.stdout.write(f"{model.name}; a scope earns an index with more than {indexes.EARNED} messages.")


def _told(large: LargeScope) -> dict[str, Any]:
    state = {None: None, False: "unfinished", True: "ready"}[large.valid]
    told = {**large.scope._asdict(), "messages": large.messages}
    return told | {"earned": large.earned, "index": state, "bytes": large.bytes}
