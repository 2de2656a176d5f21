"""The tail of the spool: records come in the order of their exchanges, including records written meanwhile."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.spool.record import HEADER, frame
from proxy.spool.segments import erase, records
from proxy.spool.tail import Tail


class Segments:
    """Segments on disk and their tail, which returns the texts of one exchange after the other."""

    def __init__(self, folder: Path) -> None:
        self.handles: dict[str, int] = {}
        self.begun: list[str] = []  # the tail learns of it when it looks for new segments
        self.when_looking: Callable[[], None] = lambda: None
        self._folder = folder
        self._sequence = count(1)

    def write(
        self, name: str, text: str, *, scope: str = "s", exchange: str = "e", sequence: int | None = None
    ) -> None:
        data = frame(
            text.encode(),
            sequence=next(self._sequence) if sequence is None else sequence,
            scope=scope.encode().ljust(8),
            exchange=exchange.encode().ljust(8),
        )
        with (self._folder / name).open("ab") as file:
            file.write(data)
        if name not in self.handles and name not in self.begun:
            self.begun.append(name)

    def open_new(self) -> None:
        for name in self.begun:
            self.handles[name] = os.open(self._folder / name, os.O_RDWR)
        self.begun.clear()
        self.when_looking()

    def tail(self) -> Tail:
        return Tail(self.handles, self.open_new)

    def taken(self, tail: Tail) -> list[str]:
        """The texts of the next exchange."""
        return [
            os.pread(self.handles[name], record.end - record.offset - HEADER.size, record.offset + HEADER.size).decode()
            for name, record in tail.next_exchange()
        ]

    def all_taken(self, tail: Tail) -> list[list[str]]:
        found = []
        while texts := self.taken(tail):
            found.append(texts)
        return found

    def close(self) -> None:
        for handle in self.handles.values():
            os.close(handle)


@pytest.fixture
def segments(tmp_path: Path) -> Iterator[Segments]:
    segments = Segments(tmp_path)
    yield segments
    segments.close()


def test_an_empty_folder_has_nothing_to_replay(segments: Segments) -> None:
    tail = segments.tail()
    assert tail.next_exchange() == tail.next_exchange() == []


def test_a_question_and_its_answer_come_together_from_any_segments(segments: Segments) -> None:
    segments.write("b", "question 1", exchange="1")
    segments.write("b", "question 2", exchange="2")
    segments.write("a", "answer 1", exchange="1")
    assert segments.all_taken(segments.tail()) == [["question 1", "answer 1"], ["question 2"]]


def test_exchanges_of_a_scope_follow_their_sequence_rather_than_their_segments(segments: Segments) -> None:
    segments.write("a", "third", exchange="3", sequence=30)
    segments.write("b", "first", exchange="1", sequence=10)
    segments.write("c", "second", exchange="2", sequence=20)
    assert segments.all_taken(segments.tail()) == [["first"], ["second"], ["third"]]


def test_scopes_are_finished_one_after_the_other(segments: Segments) -> None:
    for number in range(3):
        for scope in ("x", "y"):
            segments.write("a", f"{scope}{number}", scope=scope, exchange=str(number))
    assert segments.all_taken(segments.tail()) == [[text] for text in ("x0", "x1", "x2", "y0", "y1", "y2")]


def test_stored_records_are_not_returned(segments: Segments) -> None:
    for number in range(3):
        segments.write("a", str(number), exchange=str(number))
    segments.open_new()
    erase(segments.handles["a"], list(records(segments.handles["a"]))[1])
    assert segments.all_taken(segments.tail()) == [["0"], ["2"]]


def test_nothing_is_returned_twice_and_new_records_are_found(segments: Segments) -> None:
    segments.write("a", "before", exchange="1")
    tail = segments.tail()
    assert segments.all_taken(tail) == [["before"]]
    segments.write("a", "added", exchange="2")
    segments.write("b", "in a new segment", exchange="3")
    assert segments.all_taken(tail) == [["added"], ["in a new segment"]]
    assert segments.all_taken(tail) == []


def test_a_half_written_record_waits_until_it_is_whole(segments: Segments, tmp_path: Path) -> None:
    segments.write("a", "whole", exchange="1")
    data = frame(b"slow", sequence=9, scope=b"s       ", exchange=b"2       ")
    with (tmp_path / "a").open("ab", buffering=0) as file:
        file.write(data[:20])
        tail = segments.tail()
        assert segments.all_taken(tail) == [["whole"]]
        file.write(data[20:])
    assert segments.all_taken(tail) == [["slow"]]


def test_records_written_during_a_scan_do_not_overtake_earlier_ones(segments: Segments) -> None:
    """The first of two is written into a segment that has been read, the second into one that has not been."""
    segments.write("a", "0", exchange="0")
    segments.write("b", "0 of b", exchange="0 of b")
    looks = iter(range(10))

    def write_meanwhile() -> None:
        if next(looks) == 1:
            segments.write("c", "2", exchange="2", sequence=102)
            segments.write("a", "1", exchange="1", sequence=101)

    segments.when_looking = write_meanwhile
    assert segments.all_taken(segments.tail()) == [["0"], ["0 of b"], ["1"], ["2"]]


def test_a_scan_finds_everything_that_precedes_its_records(segments: Segments, tmp_path: Path) -> None:
    """While the tail reads segment b, a predecessor is written to segment a, which it has read."""
    segments.write("a", "0", exchange="0")
    segments.write("b", "2", exchange="2", sequence=102)
    segments.open_new()
    wrote: list[str] = []

    class Meanwhile(dict[str, int]):
        """Segments that are written to between the reading of `a` and of `b`."""

        def items(self) -> Iterator[tuple[str, int]]:  # type: ignore[override]
            for name, handle in super().items():
                if name == "b" and not wrote:
                    segments.write("a", "1", exchange="1", sequence=101)
                    wrote.append(name)
                yield name, handle

    tail = Tail(Meanwhile(segments.handles), segments.open_new)
    assert segments.all_taken(tail) == [["0"], ["1"], ["2"]]


scopes = st.sampled_from("xyz")
written = st.lists(st.tuples(st.sampled_from("abc"), scopes, st.integers(0, 3), st.booleans()), max_size=20)


@given(written)
def test_every_record_is_returned_once_and_in_its_scopes_order(
    tmp_path_factory: pytest.TempPathFactory, written: list[tuple[str, str, int, bool]]
) -> None:
    segments = Segments(tmp_path_factory.mktemp("spool"))
    tail, taken, order = segments.tail(), [], defaultdict(list)
    for number, (segment, scope, exchange, takes) in enumerate(written):
        segments.write(segment, f"{scope} {exchange} {number}", scope=scope, exchange=f"{scope}{exchange}")
        order[scope, exchange].append(number)
        if takes:
            taken.append(segments.taken(tail))
    taken += segments.all_taken(tail)
    segments.close()
    found = [text.split() for texts in taken for text in texts]
    assert sorted(int(number) for _, _, number in found) == list(range(len(written)))
    for (scope, exchange), numbers in order.items():
        assert [int(n) for s, e, n in found if (s, e) == (scope, str(exchange))] == numbers


@pytest.fixture(autouse=True)
def no_handle_is_left() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    yield
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # noqa: PTH208
