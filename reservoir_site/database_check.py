"""Checks that a PostgreSQL server can hold the memory: versions, pgvector, the search_path, the role's privileges."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import psycopg
from django.db import DatabaseError, ProgrammingError
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.exceptions import MigrationSchemaMissing

from reservoir_site.postgres_folder import PostgresError

OLDEST_POSTGRES = 15
OLDEST_VECTOR = (0, 7)  # the first with halfvec

_FACTS = """
SELECT current_setting('server_version'), current_setting('server_version_num')::int / 10000,
    current_user, current_database(), coalesce(current_schema(), ''), current_setting('search_path'),
    coalesce((SELECT default_version FROM pg_available_extensions WHERE name = 'vector'), ''),
    coalesce(e.extversion, ''), coalesce(n.nspname, ''), coalesce(n.nspname = ANY(current_schemas(true)), false)
FROM (SELECT) one LEFT JOIN pg_extension e ON e.extname = 'vector' LEFT JOIN pg_namespace n ON n.oid = e.extnamespace
"""


class Facts(NamedTuple):
    """The versions that a server reports; "" for a missing one."""

    version: str
    major: int
    role: str
    database: str
    schema: str  # where new tables go
    search_path: str
    available_vector: str  # the version that CREATE EXTENSION would install
    vector: str  # the installed version
    vector_schema: str
    vector_found: bool  # its schema is in the search_path


def facts(connection: BaseDatabaseWrapper) -> Facts:
    """Ask the server. Raises django.db.Error."""
    with connection.cursor() as cursor:
        cursor.execute(_FACTS)
        row = cursor.fetchone()
        assert row is not None
        return Facts(*row)


def problem(found: Facts) -> str | None:
    """What keeps the memory from this server, as one sentence with the remedy; None if nothing does."""
    if found.major < OLDEST_POSTGRES:
        return f"The server of DATABASE_URL is PostgreSQL {found.version}: use PostgreSQL {OLDEST_POSTGRES} or newer."
    if not found.schema:
        return (
            f"The search_path of the role {found.role} ({found.search_path}) names no schema that exists and that it "
            f"may use: run ALTER ROLE {_name(found.role)} SET search_path = public, or create the schema."
        )
    if not found.vector and not found.available_vector:
        return (
            "The server of DATABASE_URL lacks the vector extension: install pgvector there (0.7 or newer), "
            "for example with the image pgvector/pgvector:pg18."
        )
    if not found.vector:
        return _too_old(found.available_vector)
    if _numbers(found.vector) < OLDEST_VECTOR:
        if _numbers(found.available_vector) >= OLDEST_VECTOR:
            return (
                f"The vector extension of the database {found.database} is version {found.vector}, too old: "
                "run ALTER EXTENSION vector UPDATE there, as its owner."
            )
        return _too_old(found.vector)
    if not found.vector_found:
        return (
            f"The vector extension is in the schema {found.vector_schema}, which is not in the search_path of the role "
            f"{found.role} ({found.search_path}) or which it may not use: add it, or run as the extension's owner "
            f"ALTER EXTENSION vector SET SCHEMA {_name(found.schema)}."
        )
    return None


def create_vector(connection: BaseDatabaseWrapper, found: Facts) -> None:
    """Create the vector extension if the database lacks it. Raises PostgresError if the role may not."""
    if found.vector:
        return
    try:
        with connection.cursor() as cursor:
            cursor.execute("CREATE EXTENSION IF NOT EXISTS vector")
    except DatabaseError as error:
        if not isinstance(error.__cause__, psycopg.errors.InsufficientPrivilege):
            raise
        raise PostgresError(
            f"The role {found.role} may not create the vector extension: run CREATE EXTENSION vector "
            f"in the database {found.database} as a superuser."
        ) from None


@contextmanager
def privileges_explained(found: Facts) -> Iterator[None]:
    """Turns a missing privilege of a migration into PostgresError."""
    try:
        yield
    except (ProgrammingError, MigrationSchemaMissing) as error:
        if not _is_forbidden(error):
            raise
        role, schema = _name(found.role), _name(found.schema)
        raise PostgresError(
            f"The role {found.role} may not create or change Reservoir's tables in the schema {found.schema}: "
            f"run GRANT CREATE, USAGE ON SCHEMA {schema} TO {role} as the schema's owner; {role} must own the tables."
        ) from None


def _is_forbidden(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            return True
        error = error.__cause__ or error.__context__
    return False


def _too_old(version: str) -> str | None:
    if _numbers(version) >= OLDEST_VECTOR:
        return None
    return f"The server of DATABASE_URL has pgvector {version}, too old: install pgvector 0.7 or newer there."


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split(".") if number.isdigit())


def _name(name: str) -> str:
    """A name as SQL writes it."""
    return name if name.replace("_", "a").isalnum() and name == name.lower() else '"' + name.replace('"', '""') + '"'
