"""Which processes serve on this database. Each says so every few seconds, and ends what a silent one left open.

An exchange names the process that is to end it. Starting a process touches no exchange of another; one that is killed
is silent from then on.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from django.db import DatabaseError, connection, transaction

from conversations.commits import commit_soon
from conversations.models import Exchange, ServerProcess
from conversations.states import Ended

BEAT_SECONDS = 5.0
SILENT_SECONDS = 20.0
"""A process that has said nothing for so long is given up."""
REMEMBERED = timedelta(days=1)

log = logging.getLogger(__name__)

this_process = uuid.uuid4()
"""This process, in what it opens and says."""


@dataclass(frozen=True, slots=True)
class Host:
    """Where a process runs. `secret` is a fingerprint of the secret with which it signs the admin's sessions."""

    name: str
    home: str
    secret: str
    has_login: bool  # the file with the first admin's login is in its home


def say_alive(host: Host) -> None:
    """Say that this process serves. Raises django.db.Error."""
    with transaction.atomic():
        commit_soon()
        now = _now()
        values = {**asdict(host), "seen": now}
        if not ServerProcess.objects.filter(pk=this_process).update(**values):
            ServerProcess.objects.create(pk=this_process, started=now, **values)


def say_goodbye() -> None:
    """Say that this process no longer serves: what it left open is given up. Raises django.db.Error."""
    ServerProcess.objects.filter(pk=this_process).update(seen=_now() - timedelta(seconds=SILENT_SECONDS))


def serving() -> Sequence[ServerProcess]:
    """The processes that have been heard of lately. Raises django.db.Error."""
    return list(ServerProcess.objects.filter(seen__gt=_now() - timedelta(seconds=SILENT_SECONDS)))


def with_login() -> ServerProcess | None:
    """The latest process whose home has the file with the first admin's login. Raises django.db.Error."""
    return ServerProcess.objects.filter(has_login=True).order_by("-seen").first()


def give_up_silent() -> int:
    """Mark what silent processes left open as interrupted, so that asking again is a retry. Returns the number.

    An answer that comes after all still ends its exchange. Exchanges without a process were opened by an earlier
    version; they have an hour.
    """
    now = _now()
    given_up = now - timedelta(seconds=SILENT_SECONDS)
    alive = list(ServerProcess.objects.filter(seen__gt=given_up).values_list("pk", flat=True))
    left_open = Exchange.objects.filter(ended=Ended.OPEN)
    silent = left_open.filter(created__lt=given_up, served_by__isnull=False).exclude(served_by__in=alive)
    unnamed = left_open.filter(created__lt=now - timedelta(hours=1), served_by__isnull=True)
    return sum(rows.update(ended=Ended.INTERRUPTED) for rows in (silent, unnamed))


def forget_silent() -> int:
    """Forget processes that have been silent for a day, except the latest with a login. Returns the number."""
    old = ServerProcess.objects.filter(seen__lt=_now() - REMEMBERED)
    if latest := with_login():
        old = old.exclude(pk=latest.pk)
    return old.delete()[0]


def _now() -> datetime:
    """The database's time: hosts' clocks differ."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT statement_timestamp()")
        row: tuple[datetime] = cursor.fetchone()
        return row[0]


class Heartbeat(threading.Thread):
    """Says that this process serves until stopped, and gives up those that no longer say so."""

    def __init__(self, host: Host) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._host = host
        self._stopping = threading.Event()
        self._heard_since = time.monotonic()  # since when no beat has failed

    def stop(self, seconds: float) -> None:
        """Say goodbye and end, within `seconds`. Blocks."""
        self._stopping.set()
        self.join(seconds)

    def run(self) -> None:
        while not self._stopping.is_set():
            self._attempt(self._beat)
            self._stopping.wait(BEAT_SECONDS)
        self._attempt(say_goodbye)
        connection.close()

    def _attempt(self, work: Callable[[], object]) -> None:
        try:
            work()
        except DatabaseError as error:
            log.debug("no heartbeat (%s)", type(error).__name__)
            self._heard_since = time.monotonic()
            connection.close()
        except Exception:
            log.exception("the heartbeat failed")
            self._heard_since = time.monotonic()
            connection.close()

    def _beat(self) -> None:
        say_alive(self._host)
        # After an outage all have been silent: none is given up before each could speak again.
        if time.monotonic() - self._heard_since > SILENT_SECONDS:
            if given_up := give_up_silent():
                log.warning("%d exchanges of processes that ended are given up", given_up)
            forget_silent()
