from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError

from conversations import reembedding
from conversations.embedders.base import EmbedderError
from conversations.embedders.factory import LOCAL, SPEC_HELP
from conversations.embedding import make
from conversations.management.progress import bars
from conversations.management.terminal import Command as TerminalCommand
from conversations.models import Embedding, EmbeddingModel


class Command(TerminalCommand):
    help = "Change the embedding model beside live traffic: make the new vectors, then switch over in one step."
    examples = """
  change to an endpoint's model (its key is RESERVOIR_EMBEDDER_KEY):
      manage.py reembed --model "https://api.openai.com/v1#text-embedding-3-small" --dimensions 1536
  change back to the local model:
      manage.py reembed --model local
  when you are satisfied, remove the vectors of models that are not in use:
      manage.py reembed --drop-old

If it is killed, run it again to continue. Until it switches over, recall uses the old model.
"""

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--model", metavar="SPEC", help=SPEC_HELP)
        parser.add_argument(
            "--dimensions",
            type=int,
            metavar="N",
            help="the length of the endpoint's vectors; default: RESERVOIR_EMBEDDER_DIMENSIONS",
        )
        parser.add_argument("--drop-old", action="store_true", help="remove the vectors of models that are not in use")

    def handle(self, *args: Any, model: str | None, dimensions: int | None, drop_old: bool, **options: Any) -> None:
        if not model and not drop_old:
            raise CommandError("Give --model SPEC, --drop-old, or both.")
        try:
            with reembedding.alone():
                if model:
                    self._change(model, dimensions or settings.RESERVOIR_EMBEDDER_DIMENSIONS)
                if drop_old:
                    self._drop(wait=bool(model))
        except (EmbedderError, reembedding.ReembeddingError) as error:
            raise CommandError(str(error)) from None

    def _change(self, spec: str, dimensions: int) -> None:
        try:
            embedder = make(spec, dimensions)
        except ValueError as error:
            raise CommandError(str(error)) from None
        try:
            model = reembedding.begin(embedder, spec)
            messages, lacking = reembedding.to_do(model)
            with bars() as progress:
                task = progress.add_task("embedding", total=messages, completed=messages - lacking)
                reembedding.reembed(embedder, model, lambda done: progress.update(task, advance=done))
        finally:
            embedder.close()
        self.stdout.write(f"{model.name} is in use. Running servers notice within a few seconds.")
        if (spec, dimensions) != (settings.RESERVOIR_EMBEDDER, settings.RESERVOIR_EMBEDDER_DIMENSIONS):
            more = f" and RESERVOIR_EMBEDDER_DIMENSIONS={dimensions}" if spec not in LOCAL else ""
            self.stdout.write(f"Set RESERVOIR_EMBEDDER={spec}{more}, so that the settings agree.")

    def _drop(self, *, wait: bool) -> None:
        old = Embedding.objects.filter(model__in=EmbeddingModel.objects.filter(active=False)).count()
        with bars() as progress:
            task = progress.add_task("dropping", total=old)
            dropped = reembedding.drop_old(lambda done: progress.update(task, advance=done), wait=wait)
        self.stdout.write(f"{dropped} vectors of other models dropped.")
