"""Whether the database answers, has the tables of this version, takes writes, and can run recall's query. All block."""

from __future__ import annotations

from collections.abc import Sequence

from django.db import DatabaseError, ProgrammingError, connection
from django.db.migrations.executor import MigrationExecutor

from conversations import lookup
from conversations.nearest import vector_literal
from conversations.recall.retrieval import RetrievalRequest, Word, retrieve
from proxy.database.reconnecting import error_name, on_database

NO_ANSWER = "it does not answer"
MIGRATE = "run manage.py migrate"
READ_ONLY = "the database takes no writes"

_FACTS = """
SELECT current_setting('server_version'), coalesce((SELECT extversion FROM pg_extension WHERE extname = 'vector'), ''),
    current_setting('transaction_read_only') = 'off'
    AND has_table_privilege('conversations_message', 'INSERT')
    AND has_table_privilege('conversations_exchange', 'INSERT')
"""


def database_health() -> tuple[dict[str, str | None], dict[str, str]]:
    """What is wrong with the `database`, its `migrations` and `storing`, None for nothing; and the versions it runs."""
    try:
        on_database(lookup.read_one_message)
        with connection.cursor() as cursor:
            cursor.execute(_FACTS)
            postgres, vector, takes_writes = cursor.fetchone() or ("", "", False)
    except ProgrammingError:
        return {"database": None, "migrations": MIGRATE}, {}
    except DatabaseError as error:
        return {"database": f"{NO_ANSWER} ({error_name(error)})", "migrations": None}, {}
    executor = MigrationExecutor(connection)
    missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    parts = {
        "database": None,
        "migrations": MIGRATE if missing else None,
        "storing": None if takes_writes else READ_ONLY,
    }
    return parts, {"postgresql": postgres, "pgvector": vector}


def recall_health(vector: Sequence[float] | None, model: str) -> str | None:
    """What is wrong with recall's query, None for nothing. Runs it on a scope without messages."""
    nothing = RetrievalRequest(
        instance_id=0,
        message_count=0,
        words=[Word("ready")],
        vector=None if vector is None else vector_literal(vector),
        model=model,
    )
    try:
        on_database(lambda: retrieve(nothing))
    except DatabaseError as error:
        return f"its query fails ({error_name(error)})"
    return None
