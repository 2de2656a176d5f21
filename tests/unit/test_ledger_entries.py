"""Entries of ledgers are the same after they have been packed."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.exchange.ledger import ARMS as EXPLAINED
from conversations import leb128
from conversations.ledger_entries import ARMS, UNIT, Why, nearest, only_considered, pack, unpack
from conversations.recall.ranking import WEIGHTS

DECIMALS = st.integers(-999, 999).map(lambda number: number / 100)
RANKS = st.none() | st.integers(1, 10**6)
ENTRIES = st.fixed_dictionaries(
    {"id": st.integers(0, 2**63 - 1)},
    optional={
        "arm": st.sampled_from(["recall", "latest"]),
        "kept": st.booleans(),
        "why": st.sampled_from([*Why]).map(lambda why: why.value),
        "score": DECIMALS,
        "tokens": st.integers(0, 10**9),
        "piece": st.tuples(st.integers(0, 10**7), st.integers(0, 10**7)).map(lambda at: [at[0], at[0] + at[1]]),
        "arms": st.dictionaries(
            st.sampled_from(ARMS),
            st.fixed_dictionaries({"rank": RANKS, "score": DECIMALS}).filter(lambda arm: arm["rank"] or arm["score"]),
        ),
    },
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(ENTRIES)
def test_an_entry_of_recall_takes_few_bytes_and_comes_back(entry: dict[str, Any]) -> None:
    packed = pack([entry])
    assert packed.startswith(b"\0")
    assert unpack(packed) == [entry]


@given(st.lists(ENTRIES))
def test_entries_follow_each_other(entries: list[dict[str, Any]]) -> None:
    assert unpack(pack(entries)) == entries


FIELDS = st.sampled_from(["id", "arm", "kept", "why", "score", "tokens", "piece", "arms"])


@given(ENTRIES, st.dictionaries(FIELDS, JSON))
def test_any_other_entry_comes_back_too(entry: dict[str, Any], strange: dict[str, Any]) -> None:
    entry |= strange
    _, came_back = unpack(pack([{"id": 1}, entry]))
    if pack([entry]).startswith(b"\0") and "score" in entry:
        entry["score"] = round(entry["score"] * UNIT) / UNIT
    if isinstance(entry.get("arms"), dict):  # parts that add nothing are left out
        entry["arms"] = {
            name: arm for name, arm in entry["arms"].items() if name in came_back["arms"] or name not in ARMS
        }
    assert came_back == entry


def test_an_ordinary_entry_takes_less_than_forty_bytes() -> None:
    parts = ("vector", "words", "session", "nearby", "answer", "user", "short")
    arms = {name: {"rank": 150 + at, "score": (10 + at) / 100} for at, name in enumerate(parts)}
    entry = {"id": 10**6, "arm": "recall", "kept": True, "why": "shown: relevant", "score": 1.23, "tokens": 200}
    assert len(pack([entry | {"arms": arms, "piece": [0, 690]}] * 10)) < 390


def test_bytes_that_are_no_entry_are_refused() -> None:
    for data in (b"", b"\1", b"\0\x10", b"\0\x10\x01", b"\0\x10\x01\0\x7f", b"[", b"{"):
        with pytest.raises(ValueError):
            unpack(data)


def test_an_entry_that_was_stored_on_its_own_is_read() -> None:
    assert unpack(b'{"id": 1}') == [{"id": 1}]


def test_ids_that_were_shown_are_not_named_twice() -> None:
    assert only_considered([{"id": 1}, {"id": 2}, {"id": 3}], [2]) == [1, 3]


def test_every_part_of_the_formula_has_a_place_and_an_explanation() -> None:
    assert set(WEIGHTS) <= set(ARMS)
    assert set(EXPLAINED) == set(ARMS)


def test_the_places_of_reasons_and_parts_never_change() -> None:
    parts = "vector words session nearby speaker answer user wish date time question short"
    assert " ".join(ARMS[:12]) == parts
    whys = "RELEVANT WISH LATEST NO_ROOM SAME_TEXT NO_TEXT WINDOW LOW_SCORE OTHERWISE AMONG_LATEST IN_REQUEST"
    assert " ".join(why.name for why in [*Why][:11]) == whys


def test_the_nearest_misses_stay() -> None:
    entries = [{"id": at, "kept": at in (0, 4, 9)} for at in range(10)]
    assert [entry["id"] for entry in nearest(entries, 2, itemgetter("kept"))] == [0, 1, 2, 4, 9]
    assert nearest([], 2, bool) == []


@given(st.lists(st.integers(0, 2**70)))
def test_whole_numbers_come_back(numbers: list[int]) -> None:
    assert leb128.decode(leb128.encode(numbers)) == numbers
