"""Finds the instance of a scope by its names, where the database is distributed (see distribution.py).

Rows of a scope lie on one node, which only the number of its instance tells. So a request asks for the number first,
and each of its statements names it. A process remembers numbers. They never change; a statement that reads the scope's
row compares the names too, so that a scope which was forgotten and begun anew is looked up again.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from django.db import connection

if TYPE_CHECKING:
    from conversations.querysets import Scope

MOST = 100_000  # scopes; a number and two names take some 300 bytes

_known: dict[Scope, int] = {}


@cache
def is_distributed() -> bool:
    """Whether the tables are distributed; a process asks once. Raises django.db.Error."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')")
        if cursor.fetchone() != (True,):
            return False
        cursor.execute("SELECT to_regclass('conversations_instance') IN (SELECT logicalrelid FROM pg_dist_partition)")
        return bool(cursor.fetchone() == (True,))


def number_of(scope: Scope) -> int | None:
    """The id of the scope's instance; None if it does not exist. Asks every node if this process does not know it."""
    if scope not in _known:
        with connection.cursor() as cursor:
            cursor.execute(FIND, {"partition": scope.partition, "instance": scope.instance})
            row = cursor.fetchone()
        if row is None:
            return None
        if len(_known) >= MOST:
            _known.clear()
        _known[scope] = row[0]
    return _known[scope]


class Named(NamedTuple):
    """SQL that finds a scope's instance `i` and its partition `p`: a condition, and the values that it names.

    `number` is SQL for the instance's id where it is known beforehand, else empty.
    """

    condition: str
    number: str
    values: dict[str, Any]


def in_sql(scope: Scope) -> Named:
    values = {"partition": scope.partition, "instance": scope.instance}
    if not is_distributed():
        return Named(BY_NAME, "", values)
    return Named(f"{BY_NAME} AND i.id = %(number)s", "%(number)s", values | {"number": number_of(scope) or 0})


def is_unknown(scope: Scope) -> bool:
    """Whether the database is distributed and this process knows no number of the scope.

    To begin one, the partition is written first: after a statement that asks every node, Citus may refuse to write to a
    table that is copied to all.
    """
    return scope not in _known and is_distributed()


def look_up_again(scope: Scope) -> None:
    """Forget the number: no row had it and the names."""
    _known.pop(scope, None)


def begin_alone(scope: Scope) -> None:
    """Wait until no other transaction begins this scope: no key keeps its names unique over all nodes."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 8))", ["\n".join(scope)])


BY_NAME = "p.name = %(partition)s AND i.name = %(instance)s"

FIND = f"""
SELECT i.id FROM conversations_instance i JOIN conversations_partition p ON p.id = i.partition_id WHERE {BY_NAME}
"""  # noqa: S608, composed of constants
