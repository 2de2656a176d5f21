from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from conversations.embedders.base import Embedder, EmbedderError
from conversations.embedding import active_embedder
from conversations.management.terminal import Command as TerminalCommand
from proxy.evaluation import measures, questions, trial
from proxy.evaluation.measures import Answer
from proxy.evaluation.questions import Conversation
from proxy.memory.recollection import BASELINES, PARTS
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
    "mean_tokens": "block tok",
    "recall@block": "R block",
}


class Command(TerminalCommand):
    help = "Measure recall on a file of conversations and questions: how many of the right messages are found."
    wide = True
    examples = """
  on your own conversations, with questions whose answers you know (docs/recall.md describes the file):
      manage.py evaluate questions.json
  with each part of recall left out in turn, to see what it contributes:
      manage.py evaluate questions.json --compare all
  beside plain rankings, to see whether recall is better than those on each kind of conversation:
      manage.py evaluate questions.json meetings.json --baseline dense,bm25,rrf
  for a script:
      manage.py evaluate questions.json --json

The conversations are imported into a hidden partition, which is deleted at the end.
"""

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "files", type=Path, nargs="+", metavar="FILE", help="conversations and questions, see docs/recall.md"
        )
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

        parser.add_argument(
            "--baseline",
            action="extend",
            type=_baselines,
            default=[],
            metavar="RANKING",
            help=f"ask again with a plain ranking: {', '.join(BASELINES)}; several with commas",
        )

    def handle(self, *args: Any, files: Sequence[Path], **options: Any) -> None:
        conversations_by_file = {str(file): _read(file) for file in files}
        compared = [setting.removeprefix(WITHOUT) for setting in options["compare"]]
        if "all" in compared:
            compared = [*PARTS]
        tokens.prepare(settings.RESERVOIR_HOME / "tiktoken")
        try:
            embedder = active_embedder()
        except EmbedderError as error:
            raise CommandError(str(error)) from None
        try:
            results = {
                file: _asked(conversations, embedder, compared, options["baseline"])
                for file, conversations in conversations_by_file.items()
            }
        except EmbedderError as error:
            raise CommandError(str(error)) from None
        finally:
            embedder.close()
        if options["json"]:
            reports = {file: _full_report(result) for file, result in results.items()}
            self.print_json({"files": reports} if len(reports) > 1 else next(iter(reports.values())))
        else:
            self._print(results)

    def _print(self, results: Mapping[str, Result]) -> None:
        if len(results) > 1:
            self._print_files(results)
        else:
            (result,) = results.values()
            self._print_figures(result.answers)
            for others in filter(None, (result.without, result.baselines)):
                self._print_comparison(result.answers, others)

    def _print_files(self, results: Mapping[str, Result]) -> None:
        table = _table("", "questions", *COLUMNS.values())
        for file, result in results.items():
            others = {**result.without, **result.baselines}
            table.add_row(Path(file).name, *_cells(result.answers), end_section=not others)
            for at, (name, answers) in enumerate(others.items(), 1):
                table.add_row(f"  {name}", *_cells(answers), end_section=at == len(others))
        self.console().print(table)

    def _print_figures(self, answers: Sequence[Answer]) -> None:
        table = _table("", "questions", *COLUMNS.values(), "p50 ms", "p95 ms")
        groups = (("overall", answers), *measures.by("category", answers).items())
        conversations = measures.by("conversation", answers)
        if len(conversations) > 1:
            groups += (*conversations.items(),)
        for at, (name, group) in enumerate(groups):
            figures = measures.figures(group)
            table.add_row(
                name,
                *_cells(group),
                f"{figures['p50_ms']:.1f}",
                f"{figures['p95_ms']:.1f}",
                end_section=at in (0, len(groups) - len(conversations) - 1),
            )
        self.console().print(table)

    def _print_comparison(self, answers: Sequence[Answer], others: Mapping[str, Sequence[Answer]]) -> None:
        table = _table("", *COLUMNS.values())
        whole = measures.figures(answers)
        for name, those in {"overall": answers, **others}.items():
            figures = measures.figures(those)
            cells = [
                _cell(key, figures)
                if those is answers or key == "mean_tokens"
                else f"{_cell(key, figures)} ({100 * (figures[key] - whole[key]):+.1f})"
                for key in COLUMNS
            ]
            table.add_row(name, *cells, end_section=those is answers)
        self.console().print(table)


@dataclass(frozen=True, slots=True)
class Result:
    """The answers to a file's questions: by recall, without parts of it, and by plain rankings."""

    answers: Sequence[Answer]
    without: Mapping[str, Sequence[Answer]]
    baselines: Mapping[str, Sequence[Answer]]


def _asked(
    conversations: Sequence[Conversation], embedder: Embedder, compared: Sequence[str], baselines: Sequence[str]
) -> Result:
    with _progress() as bar, trial.imported(conversations, embedder, bar("embedding", conversations)) as it:

        def ask(title: str, **how: Any) -> list[Answer]:
            return it.ask(bar(title, conversations), **how)

        return Result(
            ask("asking"),
            {f"{WITHOUT}{part}": ask(f"{WITHOUT}{part}", without={part}) for part in compared},
            {name: ask(name, baseline=name) for name in baselines},
        )


def _baselines(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in BASELINES]:
        raise ArgumentTypeError(f"{unknown[0]!r} is no ranking: choose from {', '.join(BASELINES)}.")
    return names


def _cells(answers: Sequence[Answer]) -> list[str]:
    figures = measures.figures(answers)
    return [f"{figures['questions']:.0f}", *(_cell(key, figures) for key in COLUMNS)]


def _cell(key: str, figures: Mapping[str, float]) -> str:
    return f"{figures[key]:.0f}" if key == "mean_tokens" else f"{100 * figures[key]:.1f}"


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


def _full_report(result: Result) -> dict[str, Any]:
    report = _report(result.answers)
    if result.without:
        report["compared"] = {name: _report(answers) for name, answers in result.without.items()}
    if result.baselines:
        report["baselines"] = {name: _report(answers) for name, answers in result.baselines.items()}
    return report


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
