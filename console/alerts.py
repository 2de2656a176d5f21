"""What the dashboard warns of in red: memory that degrades, and messages or exchanges that wait too long."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

from django.db import connection
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from console import tags
from console.visible import allowed_partitions, visible
from conversations.models import Exchange
from conversations.states import MemoryState
from proxy import runtime
from proxy.spool.replaying import spool_folder
from proxy.spool.segments import total_size

MOST_WAITING = 10_000
TOO_LONG = timedelta(minutes=10)
DEGRADED_PERCENT = 1  # of the last hour's exchanges: beyond this the dashboard warns
MOST_LOOKED_AT = 10_000  # of them

BACKLOG = """
SELECT count(*), min(embed_due) FROM (
    SELECT embed_due FROM conversations_message WHERE embed_due IS NOT NULL ORDER BY embed_due LIMIT %s
) waiting
"""


class Alert(NamedTuple):
    """What is wrong and what to do, and the address of what shows it."""

    text: str
    link: str = ""


@dataclass(frozen=True, slots=True)
class Backlog:
    """How many messages wait for a vector, of at most MOST_WAITING, and whether the oldest is overdue."""

    waiting: int
    late: bool

    @property
    def more(self) -> bool:
        return self.waiting == MOST_WAITING


def backlog() -> Backlog:
    """What waits for a vector now."""
    with connection.cursor() as cursor:
        cursor.execute(BACKLOG, [MOST_WAITING])
        waiting, due = cursor.fetchone() or (0, None)
    return Backlog(waiting, late=due is not None and timezone.now() - due > TOO_LONG)


def alerts(request: HttpRequest, waiting: Backlog | None) -> list[Alert]:
    """What the user should know of now. Limited users learn of their own exchanges only."""
    found = [_degraded(request)]
    if allowed_partitions(request) is None:
        found += [_storing(), _spool(), _late(waiting)]
    return [alert for alert in found if alert]


def _degraded(request: HttpRequest) -> Alert | None:
    since = timezone.now() - timedelta(hours=1)
    latest = visible(request, Exchange.objects.filter(created__gte=since)).order_by("-created")
    states = list(latest.values_list("memory", flat=True)[:MOST_LOOKED_AT])
    bad = states.count(MemoryState.DEGRADED)
    if not bad or 100 * bad <= DEGRADED_PERCENT * len(states):
        return None
    of = f"{'latest ' if len(states) == MOST_LOOKED_AT else ''}{tags.compact(len(states))}"
    return Alert(
        f"Memory was late or failed in {tags.compact(bad)} of the {of} exchanges of the last hour: they were answered "
        "without memories, or are stored late. The log and /ready say why.",
        reverse("admin:conversations_exchange_changelist") + "?memory=degraded",
    )


def _storing() -> Alert | None:
    try:
        lost = runtime.current().memory.lost_lately
    except RuntimeError:  # pages without a server, in tests
        return None
    text = "An exchange could be stored neither in the database nor in the spool in the last minute: see the log."
    return Alert(text) if lost else None


def _spool() -> Alert | None:
    size = total_size(spool_folder())
    if not size:
        return None
    return Alert(
        f"{tags.bytesize(size)} of exchanges wait in this host's spool for the database to store them. If this stays, "
        "the log and /ready say why."
    )


def _late(waiting: Backlog | None) -> Alert | None:
    if waiting is None or not waiting.late:
        return None
    more = " or more" if waiting.more else ""
    return Alert(
        f"{tags.compact(waiting.waiting)}{more} messages wait for a vector, the oldest for over "
        f"{TOO_LONG.seconds // 60} minutes: recall finds them by words only. /ready says whether the embedder works."
    )
