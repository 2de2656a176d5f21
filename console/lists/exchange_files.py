"""Exchanges of a filtered list as a file, CSV or JSON Lines, streamed: a row each, with its figures. Of texts it has
the provider's error alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from django.db import transaction
from django.http import Http404, HttpRequest
from django.utils import timezone

from access import audit
from access.audit import Action
from console.access.who import may_see_keys, who
from console.exporting import Download, streamed
from conversations import spreadsheet
from conversations.models import Exchange
from conversations.turns import Json

CHUNK = 500  # rows in memory at once
# The fields of a row, by their columns.
FIELDS: dict[str, Callable[[Exchange], Any]] = {
    "trace_id": lambda one: str(one.trace_id),
    "created": lambda one: one.created.isoformat(),
    "partition": lambda one: one.instance.partition.name,
    "conversation": lambda one: one.instance.name,
    "dialect": lambda one: one.dialect,
    "provider": lambda one: one.provider,
    "model": lambda one: one.model,
    "ended": lambda one: one.ended,
    "status": lambda one: one.status,
    "error": lambda one: one.error,
    "finish_reason": lambda one: one.finish_reason,
    "streamed": lambda one: one.streamed,
    "input_tokens": lambda one: one.input_tokens,
    "output_tokens": lambda one: one.output_tokens,
    "dollars": lambda one: None if one.cost is None else float(one.cost),
    "milliseconds": lambda one: one.timings.get("total"),
    "memory": lambda one: one.memory,
    "memories": lambda one: one.memories,
    "memory_tokens": lambda one: one.memory_tokens,
    "rule": lambda one: one.rule,
    "key": lambda one: one.key_id,
}


def as_csv(rows: Iterable[Json]) -> Iterator[str]:
    """A line for each row, after a head if there is a row."""
    for at, row in enumerate(rows):
        if not at:
            yield spreadsheet.row(row)
        yield spreadsheet.row(row.values())


def as_lines(rows: Iterable[Json]) -> Iterator[str]:
    """A JSON object on each line, in ASCII."""
    for row in rows:
        yield json.dumps(row) + "\n"


FORMATS = {"csv": ("text/csv; charset=utf-8", as_csv), "jsonl": ("application/jsonl", as_lines)}


def download(request: HttpRequest, model_admin: Any) -> Download:
    """The file of what the list at this address has, in its order; `&format=`: see FORMATS."""
    asked = request.GET.copy()
    (form,) = asked.pop("format", ["csv"])[-1:]
    if form not in FORMATS:
        raise Http404(f"There is no format {form!r}: use {' or '.join(FORMATS)}.")
    request.GET = asked  # type: ignore[assignment] # a filter would take the format for a field
    rows = model_admin.get_changelist_instance(request).queryset.defer(None).select_related("instance__partition")
    kind, write = FORMATS[form]
    audit.record(Action.EXPORTED, who(request), details={"format": form, "exchanges by": sorted(asked)})
    columns = [name for name in FIELDS if name != "key" or may_see_keys(request)]
    response = Download(streamed(lambda: write(_rows(rows, columns))), content_type=kind)
    name = f"exchanges-{timezone.now():%Y-%m-%d}.{form}"
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


def _rows(exchanges: Any, columns: Sequence[str]) -> Iterator[Json]:
    needed = exchanges.only(
        "trace_id", "created", "instance__name", "instance__partition__name", "dialect", "provider", "model", "ended",
        "status", "error", "finish_reason", "streamed", "input_tokens", "output_tokens", "cost", "timings", "memory",
        "memories", "memory_tokens", "rule", "key_id",
    )  # fmt: skip
    with transaction.atomic():  # the cursor lives as long
        for one in needed.iterator(CHUNK):
            yield {name: FIELDS[name](one) for name in columns}
