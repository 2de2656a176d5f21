"""What the benchmarks measure with."""

from __future__ import annotations

import os
from io import BytesIO

from benchmarks import processes
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
