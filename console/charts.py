"""Figures -> SVG charts, drawn here so that pages load no foreign scripts; the style sheet colours them. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe

WIDTH, HEIGHT = 640, 180
LEFT, BOTTOM, TOP = 44, 24, 10


@dataclass(frozen=True, slots=True)
class Bar:
    """A phase: its start and length in milliseconds."""

    name: str
    title: str
    start: float
    length: float

    @property
    def kind(self) -> str:
        """Who spends this time: a class of the style sheet."""
        return "theirs" if self.name in ("provider", "answer", "stream") else "ours"


@dataclass(frozen=True, slots=True)
class Series:
    """One figure for each slot; stacked on the previous series."""

    name: str
    kind: str  # a class of the style sheet
    values: Sequence[float]


def waterfall(bars: Sequence[Bar]) -> SafeString:
    """Phases in rows, each starting where the previous one ends."""
    whole = max((bar.start + bar.length for bar in bars), default=0) or 1
    row = 26
    parts = [f'<svg class="waterfall" viewBox="0 0 {WIDTH} {row * len(bars) + 4}" role="img" aria-label="Timings">']
    for i, bar in enumerate(bars):
        x, width = 96 + 440 * bar.start / whole, max(2.0, 440 * bar.length / whole)
        y = row * i + 4
        parts.append(
            f"<g><title>{escape(bar.title or bar.name)}: {bar.length:.1f} ms</title>"
            f'<text class="label" x="0" y="{y + 14}">{escape(bar.name)}</text>'
            f'<rect class="track" x="96" y="{y + 2}" width="440" height="16" rx="4"/>'
            f'<rect class="{bar.kind}" x="{x:.1f}" y="{y + 2}" width="{width:.1f}" height="16" rx="4"/>'
            f'<text class="figure" x="{WIDTH}" y="{y + 14}">{_ms(bar.length)}</text></g>'
        )
    return mark_safe("".join([*parts, "</svg>"]))  # noqa: S308, names are escaped, the rest are numbers


def columns(
    series: Sequence[Series],
    labels: Sequence[str],
    ticks: Sequence[str] = (),
    *,
    name: str = "",
    unit: str = "",
    whole: bool = True,
) -> SafeString:
    """Stacked columns over time. `labels` has one text for each slot, and `ticks` a shorter one for the axis. Hovering
    over a column shows its figures; screen readers get the chart's `name` and the sum of each series.

    `unit` precedes a figure ("$"); the axis shows no fractions if `whole`.
    """
    slots = len(labels)
    totals = [sum(one.values[i] for one in series) for i in range(slots)]
    top = _ceiling(max(totals, default=0), whole=whole)
    inner_width, inner_height = WIDTH - LEFT - 4, HEIGHT - TOP - BOTTOM
    step = inner_width / max(slots, 1)
    width = max(1.0, min(step * 0.72, 28))
    told = escape(f"{name}: " + ", ".join(f"{one.name} {unit}{_figure(sum(one.values))}" for one in series))
    parts = [
        f'<svg class="columns" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{told}" '
        'preserveAspectRatio="none">'
    ]
    for share in (0, 0.5, 1):
        y = TOP + inner_height * (1 - share)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="axis" x="{LEFT - 8}" y="{y + 4:.1f}">{unit}{_figure(top * share)}</text>'
        )
    every = max(1, math.ceil(slots / 7))
    for i, label in enumerate(labels):
        x = LEFT + step * i + (step - width) / 2
        y = TOP + inner_height
        said = ", ".join(f"{one.name} {unit}{_figure(one.values[i])}" for one in series)
        parts.append(
            f'<g class="slot"><title>{escape(label)}: {escape(said)}</title>'
            f'<rect class="hit" x="{LEFT + step * i:.1f}" y="{TOP}" width="{step:.1f}" height="{inner_height}"/>'
        )
        for one in series:
            height = inner_height * one.values[i] / top
            if height > 0:
                y -= height
                parts.append(
                    f'<rect class="{one.kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
                    f'height="{max(height, 0.8):.1f}" rx="1.5"/>'
                )
        parts.append("</g>")
        if i % every == 0:
            middle = LEFT + step * (i + 0.5)
            kind = "tick between" if i // every % 2 else "tick"  # a narrow window shows every other one
            tick = ticks[i] if ticks else label
            parts.append(f'<text class="{kind}" x="{middle:.1f}" y="{HEIGHT - 6}">{escape(tick)}</text>')
    return mark_safe("".join([*parts, "</svg>"]))  # noqa: S308, texts are escaped, the rest are numbers


def _ceiling(value: float, *, whole: bool) -> float:
    """The next larger round number whose half is round too: the axis shows both."""
    if value <= 0:
        return 1
    size: float = 10 ** math.floor(math.log10(value))
    top = next(step * size for step in (1, 2, 4, 6, 8, 10) if step * size >= value)
    return max(2, top) if whole else top


def _figure(value: float) -> str:
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if value >= size:
            return f"{value / size:.1f}".removesuffix(".0") + unit
    if value == round(value) or value >= 100:
        return f"{value:.0f}"
    if value >= 1:
        return f"{value:.2g}"
    digits = 1 - math.floor(math.log10(value))  # two significant digits
    return f"{value:.{digits}f}".rstrip("0")


def _ms(ms: float) -> str:
    if ms >= 1000:
        return f"{ms / 1000:.1f} s"
    return f"{ms:.0f} ms" if ms >= 10 else f"{ms:.1f} ms"
