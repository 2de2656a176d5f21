"""What the benchmarks measure with."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from io import BytesIO
from typing import Any

import pytest

from benchmarks import processes
from benchmarks.instant_provider import Answers
from benchmarks.results import PROVIDER, Cell, percentile, summary, table
from benchmarks.statements import Statements
from benchmarks.texts import history
from conversations.archive.reading import Item, read


def test_a_generated_history_can_be_imported_with_its_vectors() -> None:
    lines = "".join(history("partition", "instance", 4, seed=1)).encode()
    items = list(read(BytesIO(lines)))
    assert [item.said.turn.role for item in items if isinstance(item, Item) and item.said] == ["user", "assistant"] * 2
    assert all(len(item.said.pieces) == 1 for item in items if isinstance(item, Item) and item.said)


def test_a_seed_gives_the_same_history_each_time() -> None:
    assert list(history("p", "i", 3, seed=7)) == list(history("p", "i", 3, seed=7))
    assert list(history("p", "i", 3, seed=7)) != list(history("p", "i", 3, seed=8))


def test_statements_are_the_same_whatever_values_they_have() -> None:
    statements = Statements()
    statements.note("SELECT 1 WHERE name = 'it''s; this'")
    statements.note(b"SELECT 22\n WHERE name = 'that'")
    assert statements.sent == {"SELECT ? WHERE name = ?": 2}


def test_statements_that_are_sent_together_are_one_round_trip() -> None:
    statements = Statements()
    statements.note("SELECT a; SELECT b;")
    statements.transactions = 1
    assert (statements.sent.total(), statements.round_trips) == (2, 3)


def test_a_process_is_part_of_its_tree_and_has_used_time_and_memory() -> None:
    assert os.getpid() in processes.tree(os.getppid())
    assert processes.cpu_seconds([os.getpid()]) > 0
    assert processes.resident_megabytes([os.getpid()]) > 1


def test_a_process_that_is_gone_counts_nothing() -> None:
    assert processes.cpu_seconds([2**22 + 1]) == 0
    assert processes.resident_megabytes([2**22 + 1]) == 0


def cell(row: str, kind: str = "1", **changes: Any) -> Cell:
    usual = Cell(
        row=row,
        kind=kind,
        round=0,
        answers=4,
        statuses={"200": 4},
        degraded=1,
        seconds=2.0,
        drained_for=2.0,
        times_ms=[1.0, 2.0, 3.0, 40.0],
        first_bytes_ms=[1.0, 1.0, 2.0, 2.0],
        cpu_seconds={"gateway": 0.02, "postgres": 0.01},
        others_seconds=0.0,
    )
    return replace(usual, **changes)


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1, 50, 99, 100]
    assert math.isnan(percentile([], 0.5))


def test_rounds_are_added_up_and_the_rate_is_their_median() -> None:
    cells = [cell("Reservoir"), cell("Reservoir", answers=8, statuses={"200": 8}), cell("Reservoir", seconds=1.0)]
    figures = summary(cells)["Reservoir"]["1"]
    assert (figures["answers"], figures["per_second"]) == (16, 4)
    assert figures["cpu_ms_gateway"] == pytest.approx(1000 * 0.06 / 16)
    assert figures["per_second_with_draining"] == pytest.approx(16 / 11)


def test_the_table_subtracts_the_provider_and_names_doubtful_figures() -> None:
    kinds = ("1", "16", "paced", "streams")
    cells = [cell(PROVIDER, kind) for kind in kinds]
    cells += [cell("Reservoir", kind, times_ms=[6.0], statuses={"200": 4, "503": 1}) for kind in kinds]
    cells[-1] = replace(cells[-1], others_seconds=2.0)
    text = table(summary(cells), {"Reservoir": {"gateway": 400.4}}, [PROVIDER, "Reservoir"], (1, 16))
    line = next(line for line in text.splitlines() if line.startswith("| Reservoir"))
    assert line.split(" | ")[1:5] == ["5.00", "2.50", "4.00", "-34.00"]
    assert "Reservoir: 400 MB (gateway)" in text
    assert "Reservoir, 16 clients: 1 requests were refused or failed." in text
    assert "Reservoir: other programs took up to 50 % of the gateways' core." in text


def test_every_answer_of_the_provider_is_a_new_text() -> None:
    answers = Answers()
    assert len({answers.whole() for _ in range(2_000)}) == 2_000
