"""A ledger's entries are one value, and indexes that cost every request much go. Safe beside live traffic.

Ledgers that are there already stay as they are, and stay readable. Forgetting reads the exchanges and ledgers of the
scopes concerned instead of two indexes. Two indexes by time now grow at their end, where their pages get full; at
their beginning, pages stayed half empty.
"""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models

import conversations.ledger_entries

FIGURES = ["provider", "ended", "input_tokens", "output_tokens", "cost", "memory", "memories"]


BATCH = 10_000


def fill(apps, schema_editor):
    """Servers of the version before read no nulls."""
    with schema_editor.connection.cursor() as cursor:
        cursor.execute("SELECT min(id), max(id) FROM conversations_ledger")
        first, last = cursor.fetchone()
        for start in range(first or 0, (last or -1) + 1, BATCH):
            cursor.execute(
                "UPDATE conversations_ledger SET packed = '{}' WHERE packed IS NULL AND id >= %s AND id < %s",
                [start, start + BATCH],
            )


def without_index(model, name, definition):
    """Drops it, or finds that it has been dropped."""
    return migrations.RunSQL(
        f"DROP INDEX CONCURRENTLY IF EXISTS {name}",
        f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON conversations_{model} {definition}",
        state_operations=[migrations.RemoveIndex(model, name)],
    )


def index(fields, name, **options):
    """Makes it, in place of a half made one."""
    return [
        migrations.RunSQL(f"DROP INDEX CONCURRENTLY IF EXISTS {name}", migrations.RunSQL.noop),
        AddIndexConcurrently("exchange", models.Index(fields=fields, name=name, **options)),
    ]


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("conversations", "0020_sorted_exchanges")]

    operations = [
        migrations.RunSQL(
            "ALTER TABLE conversations_ledger ALTER packed DROP NOT NULL",
            migrations.RunSQL.noop,
            state_operations=[
                migrations.RenameField("ledger", "candidates", "single_candidates"),
                migrations.AlterField(
                    "ledger",
                    "single_candidates",
                    conversations.ledger_entries.EntriesField(db_column="packed", null=True),
                ),
            ],
        ),
        migrations.RunPython(migrations.RunPython.noop, fill),
        migrations.RunSQL(
            "ALTER TABLE conversations_ledger ADD COLUMN IF NOT EXISTS entries bytea",
            "ALTER TABLE conversations_ledger DROP COLUMN entries",
            state_operations=[
                migrations.AddField(
                    "ledger",
                    "candidates",
                    conversations.ledger_entries.PackedEntriesField(db_column="entries", default=list, null=True),
                )
            ],
        ),
        # As the others, it is compressed inside the table.
        migrations.RunSQL("ALTER TABLE conversations_ledger ALTER entries SET STORAGE MAIN", migrations.RunSQL.noop),
        *index(["instance", "created"], "exchange_by_scope_then_time"),
        without_index("exchange", "exchange_by_scope_and_time", "(instance_id, created DESC)"),
        *index(["created"], "exchange_time_and_figures", include=FIGURES),
        without_index("exchange", "exchange_figures_by_time", f"(created DESC) INCLUDE ({', '.join(FIGURES)})"),
        without_index(
            "exchange", "exchange_by_what_it_sent", "USING gin (request_ids) WITH (gin_pending_list_limit = 256)"
        ),
        without_index(
            "ledger",
            "ledger_by_mention",
            "USING gin (array_cat(considered, message_ids)) WITH (gin_pending_list_limit = 256)",
        ),
    ]
