"""Forgetting: removes selected messages from everywhere, in one transaction, and writes an audit entry.

The dry run and the removal mark rows with the same statements, so that the one counts what the other removes.
Nearly everything is set-based (forgetting_sql.py): a message and a million messages take the same few statements.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta

from django.db import DatabaseError, connection, transaction
from django.db.backends.utils import CursorWrapper
from django.utils import timezone

from conversations.forgetting_sql import (
    BY_JOIN,
    BY_LIST,
    CLEAR_LEDGERS,
    COUNT,
    ENTRIES,
    MARK_EMPTY_EXCHANGES,
    MARK_EXCHANGES,
    MARK_LEDGERS,
    MARK_SENT,
    REMOVE,
    marked,
)
from conversations.ledger_entries import pack, unpack
from conversations.models import AuditEntry, Instance, Partition
from conversations.querysets import octets
from conversations.scopes import is_distributed
from conversations.selection import Selection

log = logging.getLogger(__name__)

# Called before rows are marked: code that keeps messages outside the database stores them, so that they are forgotten
# too. Upper layers register themselves here, since this one does not know them.
bring_in: list[Callable[[], object]] = []

# The longest chain of forgotten turns that is climbed to find a new parent for a remaining turn.
LONGEST_CHAIN = 1000

# Up to this many messages, each list of ids in exchanges and ledgers is asked whether it has one of them. For more,
# joining the ids is faster.
FEW = 1000

LEDGERS_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Counts:
    """The numbers of rows that go; `bytes` is the size of their texts and vectors.

    `ledgers` are removed, or lose their entries for forgotten messages. `cleared` exchanges stay, since they have other
    messages, but lose the texts of their request.
    """

    messages: int = 0
    embeddings: int = 0
    exchanges: int = 0
    ledgers: int = 0
    cleared: int = 0
    instances: int = 0
    partitions: int = 0
    bytes: int = 0

    def __bool__(self) -> bool:
        return any(asdict(self).values())

    def __add__(self, other: Counts) -> Counts:
        mine, theirs = asdict(self), asdict(other)
        return Counts(**{key: mine[key] + theirs[key] for key in mine})


class Changed(Exception):
    """Messages have been added or removed since the dry run. `counts` is what would go now."""

    def __init__(self, counts: Counts) -> None:
        super().__init__("Messages have been added or removed since the dry run: check what would go now.")
        self.counts = counts


def count(selection: Selection) -> Counts:
    """The dry run: counts what forgetting this selection would remove. Changes nothing."""
    _bring_in()
    with transaction.atomic():
        _mark(selection)
        return _counts(selection)


def forget(selection: Selection, *, by: str, expected: Counts | None = None) -> Counts:
    """Remove the selected messages from everywhere and record who (`by`) removed how much. Returns what went.

    All or nothing: if the counts differ from `expected`, nothing is removed and Changed is raised. An exchange that is
    still being answered loses its question, and is not stored again when the answer arrives.
    """
    _bring_in()
    with transaction.atomic():
        _lock(selection)
        _mark(selection)
        counts = _counts(selection)
        if expected is not None and counts != expected:
            raise Changed(counts)
        if not counts:
            return counts
        with connection.cursor() as cursor:
            _remove_entries(cursor)
            for scope in _scopes(cursor):
                cursor.execute(marked(CLEAR_LEDGERS + scope))
            for statement in REMOVE:
                cursor.execute(marked(statement), {"chain": LONGEST_CHAIN})
        if selection.whole:
            _remove_whole(selection)
        AuditEntry.objects.create(by=by, criteria=selection.described(), counts=asdict(counts))
        transaction.on_commit(_forget_statistics)
    return counts


def expired() -> list[Selection]:
    """Selections of what partitions have kept for longer than their retention."""
    now = timezone.now()
    kept = Partition.objects.filter(keep_days__isnull=False).values_list("name", "keep_days")
    return [Selection(partition=name, before=now - timedelta(days=days)) for name, days in kept if days is not None]


def _bring_in() -> None:
    for function in bring_in:
        function()


def _scopes(cursor: CursorWrapper) -> list[str]:
    """Conditions on ledgers `l` that take all together, where the database wants them scope by scope."""
    if not is_distributed():
        return [""]
    cursor.execute("SELECT DISTINCT instance_id FROM doomed")
    return [f"AND l.instance_id = {instance:d}" for (instance,) in cursor.fetchall()]


def _remove_entries(cursor: CursorWrapper) -> None:
    """Remove the entries of messages that go from ledgers that stay. SQL cannot read them (see ledger_entries.py)."""
    with connection.chunked_cursor() as reading:
        reading.execute(marked(ENTRIES))
        while rows := reading.fetchmany(LEDGERS_AT_ONCE):
            kept = [(pack([e for e in unpack(bytes(packed)) if e["id"] not in gone]), pk) for pk, packed, gone in rows]
            cursor.executemany("UPDATE conversations_ledger SET entries = %s WHERE id = %s", kept)


def _remove_whole(selection: Selection) -> None:
    """Remove the partition or instance itself, through the ORM, which knows all that depends on it."""
    instances = Instance.objects.filter(partition__name=selection.partition)
    if selection.instance is None:
        instances.delete()
        Partition.objects.filter(name=selection.partition).delete()
    else:
        instances.filter(name=selection.instance).delete()


def _lock(selection: Selection) -> None:
    """Lock the scopes concerned, since writers of a scope take turns. The order is always the same: no deadlock."""
    concerned = Instance.objects.all()
    if selection.partition is not None:
        concerned = concerned.filter(partition__name=selection.partition)
    if selection.instance is not None:
        concerned = concerned.filter(name=selection.instance)
    if selection.partition is None:
        concerned = concerned.filter(pk__in=selection.messages().order_by().values("instance_id"))
    concerned = concerned.order_by("pk")
    if is_distributed():  # a statement locks rows of one node only
        for pk in [*concerned.values_list("pk", flat=True)]:
            list(Instance.objects.filter(pk=pk).select_for_update().values_list("pk"))
        return
    list(concerned.select_for_update(of=("self",)).values_list("pk", flat=True))


def _mark(selection: Selection) -> None:
    """Fill the temporary tables `doomed` (messages), `touched` (exchanges) and `mentioning` (ledgers)."""
    messages = selection.messages().order_by().annotate(size=octets("payload") + octets("content"))
    statement, values = messages.values("id", "instance_id", "exchange_id", "parent_id", "size").query.sql_with_params()
    time_and_scope = {key: getattr(selection, key) for key in ("since", "before", "partition", "instance")}
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS pg_temp.doomed, pg_temp.sending, pg_temp.touched, pg_temp.mentioning")
        cursor.execute("SET LOCAL work_mem = '64MB'")
        cursor.execute(f"CREATE TEMP TABLE doomed ON COMMIT DROP AS {statement}", values)
        naming = BY_LIST if cursor.rowcount <= FEW else BY_JOIN
        cursor.execute("CREATE UNIQUE INDEX ON doomed (id)")
        cursor.execute("ANALYZE doomed")
        cursor.execute(marked(MARK_SENT.format(sent=naming.sent)))
        cursor.execute("ANALYZE sending")
        cursor.execute(marked(MARK_EXCHANGES))
        if selection.takes_exchanges:
            cursor.execute(marked(MARK_EMPTY_EXCHANGES), time_and_scope)
        cursor.execute("ANALYZE touched")
        cursor.execute(marked(MARK_LEDGERS.format(named=naming.named)))
        cursor.execute("ANALYZE mentioning")


def _counts(selection: Selection) -> Counts:
    with connection.cursor() as cursor:
        cursor.execute(marked(COUNT))
        messages, embeddings, exchanges, ledgers, cleared, size = cursor.fetchone() or (0,) * 6
    instances = partitions = 0
    if selection.whole:
        named = Instance.objects.filter(partition__name=selection.partition)
        partitions = int(selection.instance is None and Partition.objects.filter(name=selection.partition).exists())
        instances = named.count() if selection.instance is None else named.filter(name=selection.instance).count()
    return Counts(messages, embeddings, exchanges, ledgers, cleared, instances, partitions, int(size))


def _forget_statistics() -> None:
    """Refresh the planner's sample of words in messages, so that it holds no forgotten ones."""
    with suppress(DatabaseError), connection.cursor() as cursor:
        cursor.execute("ANALYZE conversations_message (lexemes)")
