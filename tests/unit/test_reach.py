"""Which scopes the patterns of a key reach."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversations.reach import ALL, Pattern, Reach


def test_names_match_exactly_or_by_whole_segments() -> None:
    reach = Reach.of(["shop", "help/*"], ["alice", "team/*"])
    assert reach.covers("shop", "alice")
    assert reach.covers("help/desk", "team/bob")
    assert reach.covers("help/desk/night", "team/a/b")
    for partition, instance in [("shop", "bob"), ("shops", "alice"), ("shop/x", "alice"), ("help", "alice")]:
        assert not reach.covers(partition, instance)
    for instance in ("team", "teams/a", "teamwork", "TEAM/a", "a/team/b", ""):
        assert not reach.covers("shop", instance)


@given(st.text(), st.text())
def test_a_star_reaches_everything_and_no_pattern_nothing(partition: str, instance: str) -> None:
    assert ALL.covers(partition, instance)
    assert not Reach.of([], ["*"]).covers(partition, instance)
    assert not Reach.of(["*"], []).covers_partition(partition)


@given(st.text(min_size=1).filter(lambda text: "*" not in text and text.isprintable() and text.strip()), st.text())
def test_an_exact_name_reaches_only_itself(name: str, other: str) -> None:
    assert Pattern.of(name).matches(name)
    assert Pattern.of(name).matches(other) == (name == other)


@pytest.mark.parametrize("written", ["", " ", "a*", "*a", "a/*/b", "**", "*/*", "a/**", "a\0", "a\n"])
def test_a_star_elsewhere_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="is no pattern"):
        Pattern.of(written)
