"""Charts, maps, labels and figures of the admin."""

from __future__ import annotations

import re

import numpy as np
import pytest

from console import charts, tags
from console.charts import Bar, Series
from console.conversation.dialogue import HUES
from console.conversation.memory_map import NAMED_TOPICS, SHAPES, mark, project, ranks
from console.words import labels


def test_columns_are_as_tall_as_their_figures() -> None:
    svg = charts.columns([Series("a", "one", [0, 50, 100])], ["x", "<y>", "z"])
    heights = [
        float(part.split('"')[0]) for part in svg.split('class="one"')[1:] for part in [part.split('height="')[1]]
    ]
    assert heights == [pytest.approx(73, abs=1), pytest.approx(146, abs=1)]
    assert "&lt;y&gt;" in svg and "<y>" not in svg


@pytest.mark.parametrize("most", [0.00007, 0.0005, 0.0011, 0.05, 0.3, 1, 5, 7, 45, 999, 4_200, 5_000_000])
def test_an_axis_labels_its_lines(most: float) -> None:
    svg = charts.columns([Series("a", "one", [most])], ["x"], unit="$", whole=most >= 1)
    low, half, top = (label.removeprefix("$") for label in re.findall(r'class="axis"[^>]*>([^<]*)<', svg))
    units = {"k": 1e3, "M": 1e6}
    values = [float(label.rstrip("kM")) * units.get(label[-1], 1) for label in (half, top)]
    assert low == "0" and 2 * values[0] == pytest.approx(values[1], rel=1e-9)
    assert most <= values[1] <= 2.1 * most


def test_empty_charts_are_drawn() -> None:
    assert "<svg" in charts.columns([Series("a", "one", [])], [])
    assert "<svg" in charts.columns([Series("a", "one", [0, 0])], ["x", "y"])
    assert "<svg" in charts.waterfall([])
    assert "12 ms" in charts.waterfall([Bar("recall", "find", 0, 12)])


def test_points_spread_in_the_directions_in_which_they_differ() -> None:
    rows = np.array([[0, 0, 5], [4, 0, 5], [0, 1, 5], [4, 1, 5]], dtype=np.float32)
    points = project(rows)
    assert points.min() == 0 and points.max() == 1
    assert abs(points[0, 0] - points[1, 0]) == pytest.approx(1, abs=1e-4), "the widest spread lies along x"
    assert abs(points[0, 1] - points[2, 1]) == pytest.approx(1, abs=1e-4)
    assert np.array_equal(points, project(rows)), "the same picture every time"


@pytest.mark.parametrize("rows", [np.zeros((0, 3)), np.zeros((1, 3)), np.ones((5, 3))])
def test_few_or_equal_points_are_drawn_too(rows: np.ndarray) -> None:
    points = project(rows.astype(np.float32))
    assert points.shape == (len(rows), 2) and np.isfinite(points).all()


def test_no_two_named_topics_share_hue_and_shape() -> None:
    marks = [tuple(mark(number).values()) for number in range(1, HUES * SHAPES + 1)]
    assert len(set(marks)) == len(marks) >= NAMED_TOPICS
    assert len({hue for hue, _ in marks[:HUES]}) == HUES, "the largest have hues of their own"


def test_topics_are_numbered_by_size() -> None:
    assert ranks([2, 9, 5, 9, 1]) == [4, 1, 3, 2, 5]
    assert ranks([]) == []


def test_a_label_holds_a_texts_distinctive_words() -> None:
    bees, bread = labels(["The bees and the garden bees", "Bread in the garden, more bread with rye"])
    assert bees.split(" · ")[0] == "bees" and bread.split(" · ")[0] == "bread"
    assert labels(["", "the of and"]) == ["", ""]


def test_figures_are_abbreviated() -> None:
    assert [tags.compact(n) for n in (None, 0, 999, 1_200, 1_234_567)] == [tags.NONE, "0", "999", "1.2k", "1.2M"]
    assert [tags.bytesize(n) for n in (0, 999, 1_500, 2_000_000)] == ["0 B", "999 B", "1.5 kB", "2.0 MB"]
    assert [tags.money(n) for n in (0, 0.00123, 12.5)] == ["$0.00", "$0.0012", "$12.50"]
    assert [tags.milliseconds(n) for n in (3.21, 45.6, 1234)] == ["3.2 ms", "46 ms", "1.2 s"]
