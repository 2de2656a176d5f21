"""Reads tables and keys from PostgreSQL's catalog, and runs the plan of distribution.py. Raises django.db.Error."""

from __future__ import annotations

from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper

from conversations.distribution import Catalog, ForeignKey, Key, steps


def has_citus() -> bool:
    """Whether the database is one of Citus."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')")
        row: tuple[bool] = cursor.fetchone()
        return row[0]


def is_coordinator() -> bool:
    """Whether this node of Citus is the coordinator, and the other nodes know it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT citus_is_coordinator() AND EXISTS (SELECT FROM pg_dist_node WHERE groupid = 0)")
        row: tuple[bool] = cursor.fetchone()
        return row[0]


def read() -> Catalog:
    """The tables of the current schema, their keys, and which of them Citus has placed already."""
    with connection.cursor() as cursor:
        cursor.execute(TABLES)
        rows = cursor.fetchall()
        cursor.execute(KEYS)
        keys = tuple(
            Key(table, name, tuple(columns), kind, condition) for table, name, columns, kind, condition in cursor
        )
        cursor.execute(FOREIGN_KEYS)
        foreign = tuple(ForeignKey(table, name, tuple(own), to, tuple(its)) for table, name, own, to, its in cursor)
        cursor.execute(TRIGGERS)
        triggers = tuple((table, name) for table, name in cursor)
        placed: frozenset[str] = frozenset()
        if has_citus():
            cursor.execute("SELECT logicalrelid::text FROM pg_dist_partition WHERE partmethod = 'h' OR repmodel = 't'")
            placed = frozenset(table for (table,) in cursor)
    return Catalog(
        tables={table: tuple(columns) for table, columns, _ in rows},
        keys=keys,
        foreign_keys=foreign,
        nullable=frozenset(table for table, _, nullable in rows if nullable),
        placed=placed,
        triggers=triggers,
    )


def distribute() -> list[str]:
    """Run what is left of the plan, in one transaction. Returns the statements that were run. Raises NoPlace."""
    with transaction.atomic(), connection.cursor() as cursor:
        todo = steps(read())
        if todo:
            cursor.execute("SET LOCAL citus.multi_shard_modify_mode TO 'sequential'")
        numbers = _numbers(cursor)
        for statement in todo:
            cursor.execute(statement)
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        if todo:
            _go_on_from(cursor, numbers)
    with connection.cursor() as cursor:
        for setting in SETTINGS:
            cursor.execute(SET, [setting])
    return todo


def _numbers(cursor: CursorWrapper) -> dict[tuple[str, str], int]:
    """The latest number of each identity column, by table and column."""
    cursor.execute(IDENTITIES)
    numbers = {}
    for table, column, sequence in cursor.fetchall():
        cursor.execute(f"SELECT last_value FROM {sequence} WHERE is_called")  # noqa: S608, a name of the catalog
        if row := cursor.fetchone():
            numbers[table, column] = row[0]
    return numbers


def _go_on_from(cursor: CursorWrapper, numbers: dict[tuple[str, str], int]) -> None:
    """Citus makes tables anew, with sequences that begin at 1, also those that refer to copied ones."""
    for (table, column), number in numbers.items():
        cursor.execute("SELECT setval(pg_get_serial_sequence(%s, %s), %s)", [table, column, number])


IDENTITIES = """
SELECT c.relname, a.attname, pg_get_serial_sequence(c.relname, a.attname)
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
WHERE a.attidentity <> '' AND c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace
"""


# Of the database, on every node; they hold for new connections. What recall sets for its transaction does not reach the
# workers. Citus refuses to mix several connections to a node with writes to what is copied to all nodes.
SETTINGS = (
    "jit TO off",
    "hnsw.ef_search TO 800",  # as nearest.SEARCH
    "hnsw.iterative_scan TO relaxed_order",  # as nearest.ITERATIVE
    "citus.multi_shard_modify_mode TO sequential",
)
SET = "SELECT run_command_on_all_nodes(format('ALTER DATABASE %%I SET %%s', current_database(), %s::text))"


TABLES = """
SELECT c.relname, array_agg(a.attname ORDER BY a.attnum), bool_or(a.attname = 'instance_id' AND NOT a.attnotnull)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace AND NOT EXISTS (
    SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e'
)
GROUP BY c.oid ORDER BY c.relname
"""

# Constraints have an index each. Indexes on expressions have the column 0 and are left out: they name no columns.
KEYS = """
SELECT t.relname, i.relname,
    ARRAY(SELECT a.attname::text FROM unnest(x.indkey::int2[]) WITH ORDINALITY k(attnum, place)
          JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k.attnum
          WHERE k.place <= x.indnkeyatts ORDER BY k.place),
    CASE k.contype WHEN 'p' THEN 'primary' WHEN 'u' THEN 'unique' ELSE 'index' END,
    coalesce(pg_get_expr(x.indpred, x.indrelid), '')
FROM pg_index x JOIN pg_class t ON t.oid = x.indrelid JOIN pg_class i ON i.oid = x.indexrelid
LEFT JOIN pg_constraint k ON k.conindid = i.oid AND k.conrelid = t.oid AND k.contype IN ('p', 'u')
WHERE x.indisunique AND t.relkind = 'r' AND t.relnamespace = current_schema()::regnamespace
ORDER BY t.relname, i.relname
"""

FOREIGN_KEYS = """
SELECT t.relname, k.conname,
    ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY c(attnum, place)
          JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = c.attnum ORDER BY c.place),
    o.relname,
    ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY c(attnum, place)
          JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = c.attnum ORDER BY c.place)
FROM pg_constraint k JOIN pg_class t ON t.oid = k.conrelid JOIN pg_class o ON o.oid = k.confrelid
WHERE k.contype = 'f' AND t.relnamespace = current_schema()::regnamespace
ORDER BY t.relname, k.conname
"""

TRIGGERS = """
SELECT c.relname, t.tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
WHERE NOT t.tgisinternal AND c.relnamespace = current_schema()::regnamespace ORDER BY c.relname, t.tgname
"""
