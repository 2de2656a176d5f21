from __future__ import annotations

from argparse import ArgumentParser
from typing import IO, Any, cast

from django.core.management.base import BaseCommand, CommandError
from rich import box
from rich.console import Console
from rich.table import Table

from conversations import indexes
from conversations.embedding import active_model
from conversations.indexes import LargeScope
from conversations.management.progress import bars
from conversations.models import EmbeddingModel, Instance
from conversations.querysets import Scope

STATES = {None: "none", False: "unfinished: create it again", True: "ready"}


class Command(BaseCommand):
    help = "Vector indexes of large scopes: which have one, making and dropping them, and measuring what they miss."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("do", choices=["list", "create", "drop", "measure"])
        parser.add_argument("scope", nargs="*", metavar="PARTITION INSTANCE")
        parser.add_argument("--all-earned", action="store_true", help="create: for every scope that is large enough")
        parser.add_argument("--useless", action="store_true", help="drop: those of scopes and models that are gone")
        parser.add_argument("--queries", type=int, default=100, metavar="N", help="measure: how often to ask")

    def handle(self, *args: Any, do: str, scope: list[str], **options: Any) -> None:
        model = active_model()
        if do == "list":
            self._list(model)
        elif do == "create" and options["all_earned"]:
            self._create(model, indexes.without_index(model))
        elif do == "drop" and options["useless"]:
            self.stdout.write(f"{indexes.drop_useless()} indexes dropped.")
        elif len(scope) != 2:
            more = {"create": ", or --all-earned", "drop": ", or --useless"}.get(do, "")
            raise CommandError(f"Say for which scope: manage.py index {do} PARTITION INSTANCE{more}.")
        else:
            self._one(do, model, Scope(*scope), options["queries"])

    def _one(self, do: str, model: EmbeddingModel, scope: Scope, queries: int) -> None:
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
                    f"{instance.message_count} messages are read as a whole, faster and exactly: "
                    f"an index is for scopes of more than {indexes.EARNED}."
                )
            self._create(model, [known[instance.pk]])
            return
        if instance.pk not in known or not known[instance.pk].valid:
            raise CommandError("This scope has no index: make one with manage.py index create.")
        found = indexes.measure(instance.pk, model, queries=max(1, queries))
        self.stdout.write(
            f"Of the 10 nearest vectors to each of {found.queries}, the index finds {100 * found.recall:.1f} %, in "
            f"{found.index_ms:.1f} ms each (median); exact search takes {found.exact_ms:.1f} ms."
        )

    def _create(self, model: EmbeddingModel, scopes: list[LargeScope]) -> None:
        with bars() as progress:
            for large in progress.track(scopes, description="building"):
                if not indexes.create(large.instance_id, model):
                    raise CommandError("Another process is making an index: wait until it is done.")
        self.stdout.write(f"{len(scopes)} indexes made.")

    def _list(self, model: EmbeddingModel) -> None:
        table = Table(box=box.SIMPLE)
        for at, column in enumerate(("partition", "instance", "messages", "index", "MB")):
            table.add_column(column, justify="right" if at in (2, 4) else "left")
        for large in indexes.large_scopes(model):
            table.add_row(*large.scope, str(large.messages), STATES[large.valid], f"{large.bytes / 2**20:.0f}")
        width = None if self.stdout.isatty() else 160
        Console(file=cast(IO[str], self.stdout), width=width, markup=False, highlight=False).print(table)
        self.stdout.write(f"{model.name}; a scope earns an index with more than {indexes.EARNED} messages.")
