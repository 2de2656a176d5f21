from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from conversations.embedders.base import EmbedderError
from conversations.embedding import active_embedder
from conversations.management.terminal import Command as TerminalCommand
from proxy.evaluation import measures, questions, trial
from proxy.evaluation.measures import Answer
from proxy.evaluation.questions import Conversation
from proxy.memory.recollection import PARTS
from proxy.providers import tokens

WITHOUT = "without-"
COLUMNS = {
    "recall@5": "R@5",
    "recall@10": "R@10",
    "recall@20": "R@20",
    "any@10": "any@10",
    "all@10": "all@10",
    "ndcg@10": "nDCG@10",
    "mrr": "MRR",
    "recall@1000tok": "R 1000 tok",
    "recall@2000tok": "R 2000 tok",
}


class Command(TerminalCommand):
    help = "Measure recall on a file of conversations and questions: how many of the right messages are found."
    wide = True
    examples = """
  on your own conversations, with questions whose answers you know (docs/recall.md describes the file):
      manage.py evaluate questions.json
  with each part of recall left out in turn, to see what it contributes:
      manage.py evaluate questions.json --compare all
  for a script:
      manage.py evaluate questions.json --json

The conversations are imported into a hidden partition, which is deleted at the end.
"""

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path, metavar="FILE", help="conversations and questions, see docs/recall.md")
        parser.add_argument("--json", action="store_true", help="print one JSON object instead of the tables")
        parser.add_argument(
            "--compare",
            action="append",
            default=[],
            choices=[*(f"{WITHOUT}{part}" for part in PARTS), "all"],
            metavar="SETTING",
            help=f"ask again without a part of recall: {', '.join(WITHOUT + part for part in PARTS)}, "
            "or all for each part in turn; may be repeated",
        )

    def handle(self, *args: Any, file: Path, **options: Any) -> None:
        conversations = _read(file)
        compared = [setting.removeprefix(WITHOUT) for setting in options["compare"]]
        if "all" in compared:
            compared = [*PARTS]
        tokens.prepare(settings.RESERVOIR_HOME / "tiktoken")
        try:
            embedder = active_embedder()
        except EmbedderError as error:
            raise CommandError(str(error)) from None
        try:
            with _progress() as bar, trial.imported(conversations, embedder, bar("embedding", conversations)) as it:
                answers = it.ask(bar("asking", conversations))
                others = {
                    f"{WITHOUT}{part}": it.ask(bar(f"{WITHOUT}{part}", conversations), without={part})
                    for part in compared
                }
        except EmbedderError as error:
            raise CommandError(str(error)) from None
        finally:
            embedder.close()
        if options["json"]:
            report = _report(answers)
            if others:
                report["compared"] = {name: _report(those) for name, those in others.items()}
            self.print_json(report)
        else:
            self._print_figures(answers)
            if others:
                self._print_comparison(answers, others)

    def _print_figures(self, answers: Sequence[Answer]) -> None:
        table = _table("", "questions", *COLUMNS.values(), "block tok", "R block", "p50 ms", "p95 ms")
        groups = (("overall", answers), *measures.by("category", answers).items())
        conversations = measures.by("conversation", answers)
        if len(conversations) > 1:
            groups += (*conversations.items(),)
        for at, (name, group) in enumerate(groups):
            figures = measures.figures(group)
            table.add_row(
                name,
                f"{figures['questions']:.0f}",
                *(f"{100 * figures[key]:.1f}" for key in COLUMNS),
                f"{figures['mean_tokens']:.0f}",
                f"{100 * measures.rendered_share(group):.1f}",
                f"{figures['p50_ms']:.1f}",
                f"{figures['p95_ms']:.1f}",
                end_section=at in (0, len(groups) - len(conversations) - 1),
            )
        self.console().print(table)

    def _print_comparison(self, answers: Sequence[Answer], others: Mapping[str, Sequence[Answer]]) -> None:
        table = _table("", *COLUMNS.values(), "block tok", "R block")
        whole = _shares(answers)
        for name, those in {"overall": answers, **others}.items():
            cells = [
                f"{100 * share:.1f}" if those is answers else f"{100 * share:.1f} ({100 * (share - whole[key]):+.1f})"
                for key, share in _shares(those).items()
            ]
            cells.insert(-1, f"{measures.figures(those)['mean_tokens']:.0f}")
            table.add_row(name, *cells, end_section=those is answers)
        self.console().print(table)


def _read(file: Path) -> tuple[Conversation, ...]:
    try:
        return questions.read(file.read_text())
    except OSError as error:
        raise CommandError(f"{file} cannot be read ({error.strerror}): pass the path of a file.") from None
    except UnicodeDecodeError:
        raise CommandError(f"{file} is not UTF-8: save it in that encoding.") from None
    except questions.WrongFile as error:
        raise CommandError(f"{file}, {error}") from None


def _report(answers: Sequence[Answer]) -> dict[str, Any]:
    return {
        "overall": measures.figures(answers),
        "categories": {name: measures.figures(those) for name, those in measures.by("category", answers).items()},
        "conversations": {
            name: measures.figures(those) for name, those in measures.by("conversation", answers).items()
        },
        "rendered": {"budget": settings.RESERVOIR_MEMORY_BUDGET, "recall": measures.rendered_share(answers)},
    }


def _shares(answers: Sequence[Answer]) -> dict[str, float]:
    figures = measures.figures(answers)
    return {key: figures[key] for key in COLUMNS} | {"rendered": measures.rendered_share(answers)}


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE, caption="Shares in percent; block: the memory block under default settings")
    for at, column in enumerate(columns):
        table.add_column(column, justify="right" if at else "left")
    return table


@contextmanager
def _progress() -> Iterator[Callable[[str, Sequence[Conversation]], Callable[[int], None]]]:
    """Progress bars on standard error: `bar(title, conversations)` returns a function that advances a new bar."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:

        def bar(title: str, conversations: Sequence[Conversation]) -> Callable[[int], None]:
            of = "messages" if title == "embedding" else "questions"
            task = progress.add_task(title, total=sum(len(getattr(c, of)) for c in conversations))
            return lambda done: progress.update(task, advance=done)

        yield bar
