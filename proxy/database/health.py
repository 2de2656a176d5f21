"""Whether the database answers, and whether its tables are those that this version needs."""

from __future__ import annotations

from django.db import DatabaseError, ProgrammingError, connection
from django.db.migrations.executor import MigrationExecutor

from conversations import lookup
from proxy.database.reconnecting import error_name, on_database

NO_ANSWER = "it does not answer"
MIGRATE = "run manage.py migrate"


def database_health() -> dict[str, str | None]:
    """What is wrong with the `database` and its `migrations`, None for nothing. Blocks."""
    try:
        on_database(lookup.read_one_message)
    except ProgrammingError:
        return {"database": None, "migrations": MIGRATE}
    except DatabaseError as error:
        return {"database": f"{NO_ANSWER} ({error_name(error)})", "migrations": None}
    executor = MigrationExecutor(connection)
    missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return {"database": None, "migrations": MIGRATE if missing else None}
