"""The memory map: a conversation's messages as points, similar ones close together, joined by topic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from django.db.models.functions import Left
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from numpy.typing import NDArray

from console import safe_text
from console.conversation import vectors
from console.conversation.dialogue import HUES
from console.conversation.threads import sessions, threads
from console.pages import page, to_instance
from console.visible import require, visible
from console.words import labels
from conversations.models import Instance, Message

MOST = 5_000
TEXT = 140
ITERATIONS = 25
ENOUGH = 1_500  # messages suffice to find the directions in which all differ
NAMED_TOPICS = 24
SHAPES = 4  # circle, square, triangle, diamond

Floats = NDArray[np.float32]


def map_page(request: HttpRequest, pk: int) -> HttpResponse:
    """The page of an instance's map. The points come with `?drawn`, which the page's script requests."""
    require(request, "view_message")
    instance = get_object_or_404(visible(request, Instance.objects.select_related("partition")), pk=pk)
    context: dict[str, Any] = {"trail": to_instance(instance), "instance": instance, "most": MOST}
    most = min(instance.message_count, MOST)
    if "drawn" in request.GET:
        drawn = _drawn(instance)
        shown = len(drawn["id"])
        context |= {"drawn": drawn, "shown": shown, "without": most - shown}
        context["named"] = sum(bool(topic["label"]) for topic in drawn["topics"])
    else:
        context["later"] = most
    return page(request, "map", title="Memory map", **context)


def project(rows: Floats) -> Floats:
    """Vectors (n x d) -> points (n x 2) along the two directions in which they differ most, scaled to 0..1."""
    if len(rows) == 0:
        return np.zeros((0, 2), dtype=np.float32)
    centred = rows - rows.mean(axis=0)
    some = centred[:: -(-len(rows) // ENOUGH)]
    spread = some.T @ some
    # The two largest eigenvectors by iteration: computing all would take longer than the rest of the page.
    best = np.linalg.qr(spread[:, np.argsort(-np.diag(spread))[:2]])[0]
    for _ in range(ITERATIONS):
        best = np.linalg.qr(spread @ best)[0]
    best = best * np.sign(best[np.abs(best).argmax(axis=0), (0, 1)])  # the same picture every time
    points = centred @ best
    low, span = points.min(axis=0), np.ptp(points, axis=0)
    return np.asarray((points - low) / np.where(span > 0, span, 1), dtype=np.float32)


def _drawn(instance: Instance) -> dict[str, Any]:
    """The data for the script: columns with one entry for each message, and the topics."""
    latest = Message.objects.filter(instance=instance, abandoned=False).order_by("-created", "-id")
    fields = ("id", "created", "role", "name", "text")
    messages = list(latest.annotate(text=Left("content", TEXT)).values_list(*fields)[:MOST])[::-1]
    known = vectors.of_messages([row[0] for row in messages])
    messages = [row for row in messages if row[0] in known]
    rows = [known[row[0]] for row in messages]
    breaks = sessions([row[1] for row in messages])
    starts = threads(rows, begins=[row[2] == "user" for row in messages], breaks=breaks)
    points = project(np.array(rows, dtype=np.float32)) if rows else np.zeros((0, 2))
    order = {start: i for i, start in enumerate(dict.fromkeys(starts))}
    return {
        "id": [row[0] for row in messages],
        "x": [round(float(x), 4) for x in points[:, 0]],
        "y": [round(float(y), 4) for y in points[:, 1]],
        "when": [row[1].isoformat(" ", "minutes")[:16] for row in messages],
        "who": [safe_text.shown(row[3] or row[2]) for row in messages],
        "text": [safe_text.shown(" ".join(row[4].split())) for row in messages],
        "topic": [order[start] for start in starts],
        "topics": _topics(messages, starts),
    }


def _topics(messages: Sequence[Any], starts: Sequence[int]) -> list[dict[str, Any]]:
    sizes = Counter(starts)
    large = [start for start, _ in sizes.most_common(NAMED_TOPICS)]
    texts = {start: " ".join(messages[i][4] for i in range(start, start + sizes[start])) for start in large}
    names = dict(zip(large, labels(list(texts.values()), 2), strict=True))
    order = list(dict.fromkeys(starts))
    numbers = ranks([sizes[start] for start in order])
    return [
        {
            **mark(number),
            "number": number,
            "count": sizes[start],
            "label": safe_text.shown(names.get(start, "")),
        }
        for start, number in zip(order, numbers, strict=True)
    ]


def ranks(sizes: Sequence[int]) -> list[int]:
    """For each topic its rank by size, from 1; of equal ones the first leads."""
    found = [0] * len(sizes)
    for rank, i in enumerate(sorted(range(len(sizes)), key=lambda i: -sizes[i]), 1):
        found[i] = rank
    return found


def mark(number: int) -> dict[str, int]:
    """The hue (0..HUES - 1) and shape (0..SHAPES - 1) of the topic of this rank.

    No two of the first HUES * SHAPES topics share both. A hue by message, as in the dialogue, would often repeat.
    """
    step = number - 1
    return {"hue": step * 5 % HUES, "shape": (step + step // HUES) % SHAPES}
