"""The plan of a database that Citus distributes by scope: which table goes where, and what its keys become. Pure.

A table with the column `instance_id` lies on the node of its scope, and so does the scope's row itself. Tables that
those refer to are small, and copied to every node. All others stay on the coordinator.

On a distributed table, every unique key and every foreign key to another one has to contain the column of the scope.
Names stay as Django gave them, and Django goes on to see single keys: `id` alone is still unique, since its numbers
come from one sequence. `steps` compares with what is there, so a second run does what the first left, or nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

SCOPES = "conversations_instance"  # a row for each scope, distributed by its `id`
COLUMN = "instance_id"


class NoPlace(Exception):
    """A table cannot lie anywhere. One sentence, with the remedy."""


@dataclass(frozen=True, slots=True)
class Key:
    """A primary key, a unique constraint, or a unique index, which may have a condition."""

    table: str
    name: str
    columns: tuple[str, ...]
    kind: str = "unique"  # or "primary", "index"
    condition: str = ""


@dataclass(frozen=True, slots=True)
class ForeignKey:
    table: str
    name: str
    columns: tuple[str, ...]
    to: str
    to_columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Catalog:
    """What is in the database's schema. `nullable` are tables whose scope may be null; `placed` are in Citus' hands."""

    tables: dict[str, tuple[str, ...]]  # with their columns
    keys: tuple[Key, ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    nullable: frozenset[str] = frozenset()
    placed: frozenset[str] = frozenset()
    triggers: tuple[tuple[str, str], ...] = ()  # with their tables


@dataclass(frozen=True, slots=True)
class Places:
    """Where tables go: `distributed` by this column each, `copied` to every node, or else on the coordinator."""

    distributed: dict[str, str]
    copied: tuple[str, ...]


def places(catalog: Catalog) -> Places:
    """Where each table goes. Raises NoPlace for a table that refers to a scope's rows without naming the scope."""
    by_scope = sorted(table for table, columns in catalog.tables.items() if COLUMN in columns)
    distributed = {SCOPES: "id"} | dict.fromkeys(by_scope, COLUMN)
    copied: set[str] = set()
    for _ in catalog.foreign_keys:  # what is copied may refer to more
        copied |= {key.to for key in catalog.foreign_keys if key.table in {*distributed, *copied}} - {*distributed}
    for key in catalog.foreign_keys:
        if key.to in distributed and key.table not in distributed:
            raise NoPlace(
                f"{key.table} refers to {key.to}, which is distributed by scope: give it the column {COLUMN}."
            )
    return Places(distributed, tuple(sorted(copied)))


def steps(catalog: Catalog) -> list[str]:
    """The statements that are still to be run, in one transaction. Raises NoPlace."""
    where = places(catalog)
    keys = [key for key in catalog.keys if _lacks_scope(key, where)]
    foreign = [key for key in catalog.foreign_keys if _is_redefined(key, catalog, where)]
    return [
        *_fill(catalog, where),
        *_drop_triggers(catalog, where),
        *(f"ALTER TABLE {key.table} DROP CONSTRAINT {_quoted(key.name)}" for key in foreign),
        *(_drop(key) for key in keys),
        *_place(catalog, where),
        *(_create(key, where) for key in keys),
        *(_refer(key, where) for key in foreign),
    ]


def _lacks_scope(key: Key, where: Places) -> bool:
    return key.table in where.distributed and where.distributed[key.table] not in key.columns


def _is_redefined(key: ForeignKey, catalog: Catalog, where: Places) -> bool:
    """Whether it has to name the scope, or only to be away while its table is distributed."""
    if key.to in where.distributed:
        scope = where.distributed[key.table], where.distributed[key.to]
        return scope not in zip(key.columns, key.to_columns, strict=True) or key.table not in catalog.placed
    return key.table in where.distributed and key.table not in catalog.placed


def _fill(catalog: Catalog, where: Places) -> Iterator[str]:
    """Earlier versions left the column empty in some rows; what those refer to knows the scope."""
    for table in sorted(catalog.nullable & where.distributed.keys()):
        for key in catalog.foreign_keys:
            if key.table == table and where.distributed.get(key.to) == COLUMN:
                yield (
                    f"UPDATE {table} SET {COLUMN} = o.{COLUMN} FROM {key.to} o "  # noqa: S608, names of the catalog
                    f"WHERE o.{key.to_columns[0]} = {table}.{key.columns[0]} AND {table}.{COLUMN} IS NULL"
                )
        yield f"ALTER TABLE {table} ALTER COLUMN {COLUMN} SET NOT NULL"


def _drop_triggers(catalog: Catalog, where: Places) -> Iterator[str]:
    """Citus has none on distributed tables. Recall keeps no scope in memory then (see recall/news.py)."""
    for table, name in catalog.triggers:
        if table in where.distributed and table not in catalog.placed:
            yield f"DROP TRIGGER {_quoted(name)} ON {table}"


def _drop(key: Key) -> str:
    if key.kind == "index":
        return f"DROP INDEX {_quoted(key.name)}"
    return f"ALTER TABLE {key.table} DROP CONSTRAINT {_quoted(key.name)}"


def _place(catalog: Catalog, where: Places) -> Iterator[str]:
    for table in where.copied:
        if table not in catalog.placed:
            yield f"SELECT create_reference_table('{table}')"
    for table, column in where.distributed.items():
        if table not in catalog.placed:
            together = "" if table == SCOPES else f", colocate_with => '{SCOPES}'"
            yield f"SELECT create_distributed_table('{table}', '{column}'{together})"


def _create(key: Key, where: Places) -> str:
    # The row of a scope is looked up by its names. Those of other tables are read scope by scope.
    scope = where.distributed[key.table]
    columns = _list((*key.columns, scope) if key.table == SCOPES else (scope, *key.columns))
    if key.kind == "index":
        condition = f" WHERE {key.condition}" if key.condition else ""
        return f"CREATE UNIQUE INDEX {_quoted(key.name)} ON {key.table} ({columns}){condition}"
    kind = "PRIMARY KEY" if key.kind == "primary" else "UNIQUE"
    return f"ALTER TABLE {key.table} ADD CONSTRAINT {_quoted(key.name)} {kind} ({columns})"


def _refer(key: ForeignKey, where: Places) -> str:
    pairs = [*zip(key.columns, key.to_columns, strict=True)]
    if key.to in where.distributed:
        scope = where.distributed[key.table], where.distributed[key.to]
        pairs = pairs if scope in pairs else [scope, *pairs]
    columns, to = map(_list, zip(*pairs, strict=True))
    return (
        f"ALTER TABLE {key.table} ADD CONSTRAINT {_quoted(key.name)} FOREIGN KEY ({columns}) "
        f"REFERENCES {key.to} ({to}) DEFERRABLE INITIALLY DEFERRED"
    )


def _list(columns: Sequence[str]) -> str:
    return ", ".join(map(_quoted, columns))


def _quoted(name: str) -> str:
    return '"{}"'.format(name.replace('"', '""'))
