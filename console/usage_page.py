"""What exchanges used and cost in a span of time, by partition, provider, model, access key and day; also as CSV."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from access.usage import usage_by
from console.access.who import may_see_keys
from console.pages import page
from console.visible import require, visible
from conversations.models import Exchange
from conversations.usage import DIMENSIONS, as_csv, total

SPANS = {"today": "Today", "yesterday": "Yesterday", "week": "7 days", "month": "30 days"}
LONG = "month"  # its sums load after the page
SHOWN = 200  # rows of the page; the file has all


def usage_page(request: HttpRequest) -> HttpResponse:
    """The table of `?span=` (see SPANS) by each `&by=` (see DIMENSIONS), costliest first; `&format=csv` as a file."""
    require(request, "view_exchange")
    span = request.GET.get("span", "")
    span = span if span in SPANS else "week"
    offered = [name for name in DIMENSIONS if name != "key" or may_see_keys(request)]
    by = [name for name in offered if name in request.GET.getlist("by")] or ["partition", "model"]
    frame: dict[str, Any] = {
        "spans": [(key, title, key == span) for key, title in SPANS.items()],
        "span": span,
        "dimensions": [(name, name in by) for name in offered],
        "by": by,
    }
    as_file = request.GET.get("format") == "csv"
    if span == LONG and not as_file and "summed" not in request.GET:
        later = "?" + urlencode({"span": span, "by": by, "summed": "1"}, doseq=True)
        return page(request, "usage", title="Usage", later=later, **frame)
    since, before = _bounds(span, timezone.now())
    rows = usage_by(visible(request, Exchange.objects.filter(created__gte=since, created__lt=before)), by)
    if as_file:
        name = f"usage-{since:%Y-%m-%d}-{span}.csv"
        return HttpResponse(
            as_csv(rows, by),
            content_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )
    shown = [([row[name] for name in by], row) for row in rows[:SHOWN]]
    more = len(rows) - len(shown)
    return page(request, "usage", title="Usage", rows=shown, more=more, total=total(rows), since=since, **frame)


def _bounds(span: str, now: datetime) -> tuple[datetime, datetime]:
    """From when to when, in UTC."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if span == "yesterday":
        return midnight - timedelta(days=1), midnight
    days = {"today": 0, "week": 6, "month": 29}[span]
    return midnight - timedelta(days=days), now + timedelta(minutes=1)
