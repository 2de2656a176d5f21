"""Ledgers carry their scope's id, and keep entries and additions in a few bytes. Safe beside live traffic.

Ledgers that are there already stay as they are, and stay readable; they only get the id of their scope, some thousands
at a time, each time in a transaction of its own; killed, it goes on where it was. Indexes that repeated others go.
"""

import django.contrib.postgres.fields
import django.contrib.postgres.indexes
import django.db.models.deletion
from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models

import conversations.ledger_entries

BATCH = 10_000

FILL = """
    UPDATE conversations_ledger l SET instance_id = e.instance_id
    FROM conversations_exchange e
    WHERE e.id = l.exchange_id AND l.instance_id IS NULL AND l.id >= %s AND l.id < %s
"""

# Foreign keys whose column another index begins with: the model, the field, and the name of the index.
REPEATED = (
    ("exchange", "instance", "conversations_exchange_instance_id_099f062d", "exchanges", "instance"),
    ("message", "instance", "conversations_message_instance_id_d811f333", "messages", "instance"),
    ("embedding", "message", "conversations_embedding_message_id_113693e7", "embeddings", "message"),
    ("embedding", "instance", "conversations_embedding_instance_id_99b17f5b", "+", "instance"),
    ("instance", "partition", "conversations_instance_partition_id_d124ad28", "instances", "partition"),
)


def fill(apps, schema_editor):
    with schema_editor.connection.cursor() as cursor:
        cursor.execute("SELECT min(id), max(id) FROM conversations_ledger")
        first, last = cursor.fetchone()
        for start in range(first or 0, (last or -1) + 1, BATCH):
            cursor.execute(FILL, [start, start + BATCH])


def column(name, field, kind):
    """Adds it where it is not there yet. Its default stays, for servers that run meanwhile and do not know it."""
    return migrations.RunSQL(
        f"ALTER TABLE conversations_ledger ADD COLUMN IF NOT EXISTS {kind}",
        f"ALTER TABLE conversations_ledger DROP COLUMN {kind.split()[0]}",
        state_operations=[migrations.AddField("ledger", name, field)],
    )


def without_index(model, field, index, related_name, to):
    table = f"conversations_{model}"
    key = models.ForeignKey(
        f"conversations.{to}", on_delete=django.db.models.deletion.CASCADE, related_name=related_name, db_index=False
    )
    return migrations.RunSQL(
        f"DROP INDEX CONCURRENTLY IF EXISTS {index}",
        f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {index} ON {table} ({field}_id)",
        state_operations=[migrations.AlterField(model, field, key)],
    )


MENTIONED = models.Func(
    "considered",
    "message_ids",
    function="array_cat",
    output_field=django.contrib.postgres.fields.ArrayField(models.BigIntegerField()),
)


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("conversations", "0012_dialects")]

    operations = [
        column(
            "instance",
            models.ForeignKey(
                "conversations.instance",
                db_constraint=False,
                db_index=False,
                null=True,
                on_delete=django.db.models.deletion.DO_NOTHING,
                related_name="+",
            ),
            "instance_id bigint",
        ),
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.RenameField("ledger", "candidates", "earlier_candidates"),
                migrations.AlterField(
                    "ledger", "earlier_candidates", models.JSONField(db_column="candidates", default=list)
                ),
            ]
        ),
        column(
            "candidates",
            conversations.ledger_entries.EntriesField(db_column="packed", db_default=[], default=list),
            "packed bytea[] NOT NULL DEFAULT '{}'",
        ),
        column(
            "rendering",
            models.BinaryField(db_default=b"", default=b""),
            "rendering bytea NOT NULL DEFAULT ''",
        ),
        migrations.RunPython(fill, migrations.RunPython.noop),
        migrations.RunSQL("DROP INDEX CONCURRENTLY IF EXISTS ledger_by_mention", migrations.RunSQL.noop),
        AddIndexConcurrently(
            "ledger",
            django.contrib.postgres.indexes.GinIndex(MENTIONED, name="ledger_by_mention", gin_pending_list_limit=256),
        ),
        django.contrib.postgres.operations.RemoveIndexConcurrently("ledger", "ledger_by_message"),
        *(without_index(*each) for each in REPEATED),
    ]
