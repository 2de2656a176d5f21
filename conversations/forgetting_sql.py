"""The statements of forgetting. They work on temporary tables: `doomed` has the messages that go, `sending` and
`touched` the exchanges concerned, `mentioning` the ledgers that stay and name one of the messages.

Nothing has an index of the ids that exchanges and ledgers name: it would cost every request more than forgetting
saves. The exchanges and ledgers of the scopes concerned are read.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from conversations.scopes import is_distributed


class Naming(NamedTuple):
    """SQL that finds the exchanges that sent a message (`sent`) and remaining ledgers that mention one (`named`).

    `shown` is true for a ledger of a request to which a message that goes was added.
    """

    sent: str
    named: str


BY_LIST = Naming(
    sent="""
    SELECT id FROM conversations_exchange
    WHERE instance_id IN (SELECT instance_id FROM doomed) AND request_ids && ARRAY(SELECT id FROM doomed)
    """,
    named="""
    SELECT l.id, l.message_ids && ARRAY(SELECT id FROM doomed) AS shown
    FROM conversations_exchange e JOIN conversations_ledger l ON l.exchange_id = e.id
    WHERE e.instance_id IN (SELECT instance_id FROM doomed)
      AND (l.considered && ARRAY(SELECT id FROM doomed) OR l.message_ids && ARRAY(SELECT id FROM doomed))
      AND NOT EXISTS (SELECT FROM touched t WHERE t.id = l.exchange_id AND t.goes)
    """,
)
BY_JOIN = Naming(
    sent="""
    SELECT sent.id FROM (
        SELECT id, unnest(request_ids) AS message_id FROM conversations_exchange
        WHERE instance_id IN (SELECT instance_id FROM doomed)
    ) sent JOIN doomed d ON d.id = sent.message_id
    """,
    named="""
    SELECT l.id, bool_or(l.shown) AS shown FROM (
        SELECT l.id, ids.shown, unnest(ids.list) AS message_id
        FROM conversations_ledger l JOIN conversations_exchange e ON l.exchange_id = e.id,
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
  AND NOT EXISTS (SELECT FROM conversations_message m WHERE m.exchange_id = e.id AND m.instance_id = e.instance_id)
  AND NOT EXISTS (SELECT FROM touched t WHERE t.id = e.id)
"""

MARK_LEDGERS = "CREATE TEMP TABLE mentioning ON COMMIT DROP AS {named}"

ENTRIES = """
SELECT l.id, l.entries, ARRAY(SELECT d.id FROM doomed d WHERE d.id = ANY(l.considered || l.message_ids))
FROM mentioning m JOIN conversations_ledger l ON l.id = m.id WHERE l.entries IS NOT NULL
"""

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
           coalesce(sum(coalesce(pg_column_size(l.entries), 0) + coalesce(pg_column_size(l.packed), 0)
                        + pg_column_size(l.candidates) + pg_column_size(l.injected)), 0) AS bytes
    FROM conversations_ledger l JOIN touched t ON t.id = l.exchange_id WHERE t.goes
) ledgers
"""

# Texts that quote a message: injected ones, and the other texts of requests that contained it. Ids: `considered`
# also has those that `message_ids` loses, as entries are left for them. Entries that earlier versions wrote:
# `packed` has one for each id in `considered`, `candidates` those before. Citus takes immutable functions only.
CLEAR_LEDGERS = """
UPDATE conversations_ledger l
SET injected = CASE WHEN m.shown THEN '[]'::jsonb ELSE l.injected END,
    rendering = CASE WHEN m.shown THEN ''::bytea ELSE l.rendering END,
    message_ids = CASE WHEN m.shown THEN '{}' ELSE l.message_ids END,
    tokens = CASE WHEN m.shown THEN 0 ELSE l.tokens END,
    considered = ARRAY(
        SELECT c.id FROM unnest(
            CASE WHEN m.shown AND l.entries IS NOT NULL THEN l.message_ids || l.considered ELSE l.considered END
        ) WITH ORDINALITY c(id, place)
        WHERE NOT EXISTS (SELECT FROM doomed d WHERE d.id = c.id) ORDER BY c.place
    ),
    packed = ARRAY(
        SELECT c.entry FROM unnest(l.considered, l.packed) WITH ORDINALITY c(id, entry, place)
        WHERE c.entry IS NOT NULL AND NOT EXISTS (SELECT FROM doomed d WHERE d.id = c.id) ORDER BY c.place
    ),
    candidates = (
        SELECT '[' || coalesce(string_agg(c.entry::text, ',' ORDER BY c.place), '') || ']'
        FROM jsonb_array_elements(l.candidates) WITH ORDINALITY c(entry, place)
        WHERE NOT EXISTS (SELECT FROM doomed d WHERE d.id = (c.entry ->> 'id')::bigint)
    )::jsonb
FROM mentioning m WHERE m.id = l.id
"""

REMOVE = (
    """
    UPDATE conversations_exchange e SET question_id = NULL
    FROM touched t, doomed d WHERE t.id = e.id AND NOT t.goes AND d.id = e.question_id
    """,
    """
    UPDATE conversations_exchange e SET parameters = '', prompts = '[]'::jsonb, error = ''
    FROM touched t WHERE t.id = e.id AND NOT t.goes
    """,
    # A turn that grew from a forgotten one now grows from that one's parent.
    "DROP TABLE IF EXISTS pg_temp.orphaned, pg_temp.ancestors",
    """
    CREATE TEMP TABLE orphaned ON COMMIT DROP AS
    SELECT m.id, d.parent_id FROM doomed d JOIN conversations_message m ON m.parent_id = d.id
    WHERE NOT EXISTS (SELECT FROM doomed o WHERE o.id = m.id)
    """,
    """
    CREATE TEMP TABLE ancestors ON COMMIT DROP AS
    WITH RECURSIVE climb AS (
        SELECT id, parent_id, 1 AS steps FROM orphaned
        UNION ALL
        SELECT climb.id, d.parent_id, climb.steps + 1
        FROM climb JOIN doomed d ON d.id = climb.parent_id WHERE climb.steps < %(chain)s
    )
    SELECT id, CASE WHEN parent_id IN (SELECT id FROM doomed) THEN NULL ELSE parent_id END AS parent_id
    FROM (SELECT DISTINCT ON (id) id, parent_id FROM climb ORDER BY id, steps DESC) top
    """,
    """
    UPDATE conversations_message m SET parent_id = a.parent_id FROM ancestors a WHERE a.id = m.id
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

_MARKED = re.compile(r"(?:\b(?:FROM|JOIN|USING)|,) (doomed|sending|touched|mentioning|orphaned|ancestors)\b")
_ITS_LEDGER = "l.exchange_id = e.id"
_OF_A_SCOPE = re.compile(r"\bconversations_(?:message|exchange|ledger|embedding|instance)\b")


def marked(statement: str) -> str:
    """A statement for this database. Citus joins its tables only with those temporary ones that are in a WITH, and with
    each other only by the scope, which every ledger has there.
    """
    used = sorted({*_MARKED.findall(statement)})
    if not is_distributed() or not used or not _OF_A_SCOPE.search(statement):
        return statement
    rows = ", ".join(f"{table} AS MATERIALIZED (SELECT * FROM pg_temp.{table})" for table in used)  # noqa: S608
    statement = statement.replace(_ITS_LEDGER, f"{_ITS_LEDGER} AND l.instance_id = e.instance_id")
    made, keyword, query = statement.rpartition("ON COMMIT DROP AS")
    return f"{made}{keyword} WITH {rows} {query}"
