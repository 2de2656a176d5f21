"""Forgetting: removes selected messages from everywhere, in one transaction, and writes an audit entry.

The dry run and the removal mark rows with the same statements, so that the one counts what the other removes.
Everything is set-based: a message and a million messages take the same few statements.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import NamedTuple

from django.db import DatabaseError, connection, transaction
from django.utils import timezone

from conversations.models import AuditEntry, Instance, Partition
from conversations.querysets import octets
from conversations.selection import Selection

log = logging.getLogger(__name__)

# Called before rows are marked: code that keeps messages outside the database stores them, so that they are forgotten
# too. Upper layers register themselves here, since this one does not know them.
bring_in: list[Callable[[], object]] = []

# The longest chain of forgotten turns that is climbed to find a new parent for a remaining turn.
LONGEST_CHAIN = 1000


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
            for statement in REMOVE:
                cursor.execute(statement, {"chain": LONGEST_CHAIN})
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
    list(concerned.order_by("pk").select_for_update(of=("self",)).values_list("pk", flat=True))


def _mark(selection: Selection) -> None:
    """Fill the temporary tables `doomed` (messages), `touched` (exchanges) and `mentioning` (ledgers)."""
    marked = selection.messages().order_by().annotate(size=octets("payload") + octets("content"))
    statement, values = marked.values("id", "instance_id", "exchange_id", "parent_id", "size").query.sql_with_params()
    time_and_scope = {key: getattr(selection, key) for key in ("since", "before", "partition", "instance")}
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS pg_temp.doomed, pg_temp.sending, pg_temp.touched, pg_temp.mentioning")
        cursor.execute("SET LOCAL work_mem = '64MB'")
        cursor.execute(f"CREATE TEMP TABLE doomed ON COMMIT DROP AS {statement}", values)
        naming = BY_INDEX if cursor.rowcount <= FEW else BY_READING
        cursor.execute("CREATE UNIQUE INDEX ON doomed (id)")
        cursor.execute("ANALYZE doomed")
        cursor.execute(MARK_SENT.format(sent=naming.sent))
        cursor.execute("ANALYZE sending")
        cursor.execute(MARK_EXCHANGES)
        if selection.takes_exchanges:
            cursor.execute(MARK_EMPTY_EXCHANGES, time_and_scope)
        cursor.execute("ANALYZE touched")
        cursor.execute(MARK_LEDGERS.format(named=naming.named))
        cursor.execute("ANALYZE mentioning")


def _counts(selection: Selection) -> Counts:
    with connection.cursor() as cursor:
        cursor.execute(COUNT)
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


# Up to this many messages are looked up by index in exchanges and ledgers. For more, reading all exchanges and ledgers
# of their scopes is faster.
FEW = 1000


class Naming(NamedTuple):
    """SQL that finds the exchanges that sent a message (`sent`) and remaining ledgers that mention one (`named`).

    `shown` is true for a ledger of a request to which a message that goes was added.
    """

    sent: str
    named: str


BY_INDEX = Naming(
    sent="SELECT id FROM conversations_exchange WHERE request_ids && ARRAY(SELECT id FROM doomed)",
    named="""
    SELECT l.id, l.message_ids && ARRAY(SELECT id FROM doomed) AS shown FROM conversations_ledger l
    WHERE array_cat(l.considered, l.message_ids) && ARRAY(SELECT id FROM doomed)
      AND NOT EXISTS (SELECT FROM touched t WHERE t.id = l.exchange_id AND t.goes)
    """,
)
BY_READING = Naming(
    sent="""
    SELECT sent.id FROM (
        SELECT id, unnest(request_ids) AS message_id FROM conversations_exchange
        WHERE instance_id IN (SELECT instance_id FROM doomed)
    ) sent JOIN doomed d ON d.id = sent.message_id
    """,
    named="""
    SELECT l.id, bool_or(l.shown) AS shown FROM (
        SELECT l.id, ids.shown, unnest(ids.list) AS message_id
        FROM conversations_ledger l JOIN conversations_exchange e ON e.id = l.exchange_id,
             LATERAL (VALUES (l.considered, false), (l.message_ids, true)) ids(list, shown)
        WHERE e.instance_id IN (SELECT instance_id FROM doomed)
          AND NOT EXISTS (SELECT FROM touched t WHERE t.id = e.id AND t.goes)
    ) l JOIN doomed d ON d.id = l.message_id GROUP BY 1
    """,
)

# Exchanges that brought a message, or resent it.
MARK_SENT = """
CREATE TEMP TABLE sending ON COMMIT DROP AS
SELECT exchange_id AS id FROM doomed WHERE exchange_id IS NOT NULL UNION {sent}
"""

# An exchange goes if neither its question nor any message that it brought remains.
MARK_EXCHANGES = """
CREATE TEMP TABLE touched ON COMMIT DROP AS
SELECT e.id, e.instance_id, kept.id IS NULL AND (e.question_id IS NULL OR asked.id IS NOT NULL) AS goes
FROM sending JOIN conversations_exchange e ON e.id = sending.id
LEFT JOIN doomed asked ON asked.id = e.question_id
LEFT JOIN (
    SELECT DISTINCT m.exchange_id AS id FROM sending JOIN conversations_message m ON m.exchange_id = sending.id
    WHERE NOT EXISTS (SELECT FROM doomed d WHERE d.id = m.id)
) kept ON kept.id = e.id
"""

# These may hold system prompts and an error, and nothing else would ever remove them.
MARK_EMPTY_EXCHANGES = """
INSERT INTO touched
SELECT e.id, e.instance_id, true
FROM conversations_exchange e
JOIN conversations_instance i ON i.id = e.instance_id JOIN conversations_partition p ON p.id = i.partition_id
WHERE (%(partition)s::text IS NULL OR p.name = %(partition)s) AND (%(instance)s::text IS NULL OR i.name = %(instance)s)
  AND (%(since)s::timestamptz IS NULL OR e.created >= %(since)s)
  AND (%(before)s::timestamptz IS NULL OR e.created < %(before)s)
  AND e.question_id IS NULL
  AND NOT EXISTS (SELECT FROM conversations_message m WHERE m.exchange_id = e.id)
  AND NOT EXISTS (SELECT FROM touched t WHERE t.id = e.id)
"""

MARK_LEDGERS = "CREATE TEMP TABLE mentioning ON COMMIT DROP AS {named}"

COUNT = """
SELECT (SELECT count(*) FROM doomed),
       vectors.rows, leaving.rows, ledgers.rows + (SELECT count(*) FROM mentioning),
       (SELECT count(*) FROM touched WHERE NOT goes),
       (SELECT coalesce(sum(size), 0) FROM doomed) + vectors.bytes + leaving.bytes + ledgers.bytes
FROM (
    SELECT count(*) AS rows, coalesce(sum(pg_column_size(v.vector)), 0) AS bytes
    FROM conversations_embedding v JOIN doomed d ON d.id = v.message_id
) vectors, (
    SELECT count(*) AS rows,
           coalesce(sum(octet_length(e.parameters) + octet_length(e.error) + pg_column_size(e.prompts)), 0) AS bytes
    FROM conversations_exchange e JOIN touched t ON t.id = e.id WHERE t.goes
) leaving, (
    SELECT count(*) AS rows,
           coalesce(sum(pg_column_size(l.packed) + pg_column_size(l.candidates) + pg_column_size(l.injected)), 0)
               AS bytes
    FROM conversations_ledger l JOIN touched t ON t.id = l.exchange_id WHERE t.goes
) ledgers
"""

REMOVE = (
    # Texts that quote a message: injected ones, and the other texts of requests that contained it. Entries of ledgers:
    # `packed` has one for each id in `considered`, `candidates` those that earlier versions wrote.
    """
    UPDATE conversations_ledger l
    SET injected = CASE WHEN m.shown THEN '[]'::jsonb ELSE l.injected END,
        rendering = CASE WHEN m.shown THEN ''::bytea ELSE l.rendering END,
        message_ids = CASE WHEN m.shown THEN '{}' ELSE l.message_ids END,
        tokens = CASE WHEN m.shown THEN 0 ELSE l.tokens END,
        considered = ARRAY(
            SELECT c.id FROM unnest(l.considered) WITH ORDINALITY c(id, place)
            WHERE NOT EXISTS (SELECT FROM doomed d WHERE d.id = c.id) ORDER BY c.place
        ),
        packed = ARRAY(
            SELECT c.entry FROM unnest(l.considered, l.packed) WITH ORDINALITY c(id, entry, place)
            WHERE c.entry IS NOT NULL AND NOT EXISTS (SELECT FROM doomed d WHERE d.id = c.id) ORDER BY c.place
        ),
        candidates = coalesce((
            SELECT jsonb_agg(c.entry ORDER BY c.place)
            FROM jsonb_array_elements(l.candidates) WITH ORDINALITY c(entry, place)
            WHERE NOT EXISTS (SELECT FROM doomed d WHERE d.id = (c.entry ->> 'id')::bigint)
        ), '[]'::jsonb)
    FROM mentioning m WHERE m.id = l.id
    """,
    """
    UPDATE conversations_exchange e
    SET parameters = '', prompts = '[]'::jsonb, error = '',
        question_id = CASE WHEN EXISTS (SELECT FROM doomed d WHERE d.id = e.question_id) THEN NULL
                      ELSE e.question_id END
    FROM touched t WHERE t.id = e.id AND NOT t.goes
    """,
    # A turn that grew from a forgotten one now grows from that one's parent.
    """
    WITH RECURSIVE climb AS (
        SELECT m.id, d.parent_id, 1 AS steps
        FROM doomed d JOIN conversations_message m ON m.parent_id = d.id
        WHERE NOT EXISTS (SELECT FROM doomed o WHERE o.id = m.id)
        UNION ALL
        SELECT climb.id, d.parent_id, climb.steps + 1
        FROM climb JOIN doomed d ON d.id = climb.parent_id WHERE climb.steps < %(chain)s
    ), top AS (
        SELECT DISTINCT ON (id) id, parent_id FROM climb ORDER BY id, steps DESC
    )
    UPDATE conversations_message m
    SET parent_id = CASE WHEN EXISTS (SELECT FROM doomed d WHERE d.id = top.parent_id) THEN NULL
                    ELSE top.parent_id END
    FROM top WHERE top.id = m.id
    """,
    # Messages before their vectors: a writer of vectors locks the message's row, so none are left behind.
    "DELETE FROM conversations_message m USING doomed d WHERE d.id = m.id",
    "DELETE FROM conversations_embedding v USING doomed d WHERE d.id = v.message_id",
    "DELETE FROM conversations_ledger l USING touched t WHERE t.id = l.exchange_id AND t.goes",
    "DELETE FROM conversations_exchange e USING touched t WHERE t.id = e.id AND t.goes",
    """
    UPDATE conversations_instance i
    SET message_count = greatest(0, i.message_count - gone.messages),
        exchange_count = greatest(0, i.exchange_count - gone.exchanges),
        last_active = coalesce(
            (SELECT max(m.created) FROM conversations_message m WHERE m.instance_id = i.id), i.created
        )
    FROM (
        SELECT instance_id, sum(messages) AS messages, sum(exchanges) AS exchanges FROM (
            SELECT instance_id, count(*) AS messages, 0 AS exchanges FROM doomed GROUP BY instance_id
            UNION ALL
            SELECT instance_id, 0, count(*) FROM touched WHERE goes GROUP BY instance_id
        ) counted GROUP BY instance_id
    ) gone
    WHERE gone.instance_id = i.id
    """,
)
