"""Downloads of what a page shows: a conversation, a partition, or the messages that a search finds, streamed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from itertools import islice
from typing import Any

from django.db import connection
from django.http import Http404, HttpRequest, StreamingHttpResponse
from django.utils import timezone

from access import audit
from access.audit import Action
from console.access.who import who
from console.search.place import Place, asked_place
from console.visible import require, visible
from conversations.archive.markdown import as_markdown
from conversations.archive.writing import as_array, as_lines, export_rows
from conversations.models import Exchange, Message
from conversations.turns import Json

TOGETHER = 100  # messages sent in one piece
# The suffix and type of a file, and what turns exported objects into its text.
FORMATS: dict[str, tuple[str, str, Callable[[Iterable[Json]], Iterator[str]]]] = {
    "jsonl": ("jsonl", "application/jsonl", as_lines),
    "json": ("json", "application/json", as_array),
    "markdown": ("md", "text/markdown; charset=utf-8", as_markdown),
}
_NOT_IN_A_FILE_NAME = re.compile(r"[^A-Za-z0-9._-]+")


class Download(StreamingHttpResponse):
    """A file, streamed. Its source is closed when the client leaves, too."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async with aclosing(self.streaming_content) as pieces:  # type: ignore[type-var]
            async for piece in pieces:  # type: ignore[union-attr]
                yield piece


def export_page(request: HttpRequest) -> Download:
    """The file of `?instance=` or `?partition=`, with `&q=` of messages with these words; `&format=`: see FORMATS."""
    require(request, "view_message", "view_exchange")
    format_ = request.GET.get("format", "jsonl")
    if format_ not in FORMATS:
        raise Http404(f"There is no format {format_!r}: use {', '.join(FORMATS)}.")
    suffix, kind, write = FORMATS[format_]
    place = asked_place(request)
    term = request.GET.get("q", "").replace("\x00", " ").strip()
    if place.problem or not (place.partition or term):
        raise Http404(place.problem or "There is nothing to export: name a conversation, a partition or words.")
    messages = place.messages(visible(request, Message.objects.all()))
    bare = None
    if term:
        messages = messages.filter(pk__in=Message.objects.matching(term).values("pk"))
    elif format_ == "jsonl":
        bare = _exchanges(visible(request, Exchange.objects.filter(messages=None)), place)
    partition_name = place.partition.name if place.partition else ""
    instance_name = place.instance.name if place.instance else ""
    details = {"format": format_, "found by words": bool(term)}
    audit.record(Action.EXPORTED, who(request), partition=partition_name, instance=instance_name, details=details)
    response = Download(streamed(lambda: write(export_rows(messages, bare))), content_type=kind)
    names = [one.name for one in (place.partition, place.instance) if one]
    response.headers["Content-Disposition"] = f'attachment; filename="{_file_name(names, found=bool(term))}.{suffix}"'
    return response


def _exchanges(rows: Any, place: Place) -> Any:
    if place.since:
        rows = rows.filter(created__gte=place.since)
    if place.before:
        rows = rows.filter(created__lt=place.before)
    return rows.filter(instance=place.instance) if place.instance else rows.filter(instance__partition=place.partition)


def _file_name(names: list[str], *, found: bool) -> str:
    """A name of safe characters that says what the file holds, and of which day."""
    parts = [*names, *(["found"] if found else []), f"{timezone.now():%Y-%m-%d}"]
    return "-".join(filter(None, (_NOT_IN_A_FILE_NAME.sub("-", part).strip("-.") for part in parts)))[:150]


async def streamed(begin: Callable[[], Iterator[str]]) -> AsyncIterator[bytes]:
    """The texts, encoded. They are read on a thread of their own, because a database connection belongs to one."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as thread:
        texts = begin()

        def piece() -> bytes:
            return "".join(islice(texts, TOGETHER)).encode()

        def end() -> None:
            texts.close()  # type: ignore[attr-defined] # they are generators
            connection.close()

        try:
            while data := await loop.run_in_executor(thread, piece):
                yield data
        finally:
            thread.submit(end)
