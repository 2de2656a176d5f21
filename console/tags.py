"""Template filters for figures, times and stored texts."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from django import template
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from console import safe_text
from conversations.models import Message

register = template.Library()

NONE = "\u2013"
UNITS = ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k"))
SPANS = ((86_400 * 365, "y"), (86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


@register.filter
def compact(number: float | Decimal | None) -> str:
    """1234567 -> 1.2M; a dash for None."""
    if number is None:
        return NONE
    for size, unit in UNITS:
        value = float(number) / size
        if abs(value) >= 1:
            return f"{value:.1f}".removesuffix(".0") + unit if value < 100 else f"{value:.0f}{unit}"
    return f"{number:,.0f}"


@register.filter
def bytesize(size: float | None) -> str:
    """Bytes in the largest fitting unit."""
    if size is None:
        return NONE
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 10 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


@register.filter
def money(dollars: float | Decimal | None) -> str:
    """US dollars, with as many places as a small sum needs."""
    if dollars is None:
        return NONE
    value = float(dollars)
    if value >= 1 or not value:
        return f"${value:,.2f}"
    return f"${value:.4f}".rstrip("0") if value >= 0.0001 else "<$0.0001"


@register.filter
def milliseconds(ms: object) -> str:
    """12.3 -> 12 ms, 4321 -> 4.3 s; a dash for what was not measured."""
    if not isinstance(ms, int | float):
        return NONE
    if ms >= 1000:
        return f"{ms / 1000:.1f} s"
    return f"{ms:.0f} ms" if ms >= 10 else f"{ms:.1f} ms"


@register.filter
def ago(moment: datetime | None) -> SafeString:
    """How long ago, with the moment itself as a tooltip; a dash for None."""
    if moment is None:
        return format_html(NONE)
    seconds = max(0, (timezone.now() - moment).total_seconds())
    size, unit = next(((size, unit) for size, unit in SPANS if seconds >= size), (1, "s"))
    return format_html(
        '<time datetime="{}" title="{} UTC">{} {} ago</time>',
        moment.isoformat(),
        moment.strftime("%Y-%m-%d %H:%M:%S"),
        int(seconds // size),
        unit,
    )


@register.filter
def clock(moment: datetime | None) -> SafeString:
    """A moment as 2026-05-01 14:03:22, UTC."""
    if moment is None:
        return format_html(NONE)
    text = moment.strftime("%Y-%m-%d %H:%M:%S")
    return format_html('<time datetime="{}" title="UTC">{}</time>', moment.isoformat(), text)


@register.filter
def safe_inline(text: str, length: int = 160) -> SafeString:
    """The beginning of a stored text on one line."""
    return safe_text.inline(str(text), length)


@register.filter
def bdi(text: object) -> SafeString:
    """A stored name: hidden characters shown, and isolated from the direction of what stands beside it."""
    return format_html("<bdi>{}</bdi>", safe_text.shown(str(text)))


@register.filter
def speaker(message: Message) -> SafeString:
    """Who said it: the name, else the role."""
    return format_html('<span class="role {}">{}</span>', message.role, bdi(message.name or message.role))
