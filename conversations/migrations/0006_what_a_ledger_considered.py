"""Forgetting finds the ledgers and requests that name a message by an index, since reading all of them takes too long.

Ledgers that are there already are filled in some thousands at a time, each time in a transaction of its own, beside
live traffic; killed, it goes on where it was. An exchange also keeps which of its turns the window had no room for.
"""

from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models

BATCH = 5_000

FILL = """
    UPDATE conversations_ledger
    SET considered = ARRAY(SELECT (entry ->> 'id')::bigint FROM jsonb_array_elements(candidates) entry)
    WHERE id >= %s AND id < %s AND considered = '{}' AND candidates <> '[]'::jsonb
"""


def fill(apps, schema_editor):
    with schema_editor.connection.cursor() as cursor:
        cursor.execute("SELECT min(id), max(id) FROM conversations_ledger")
        first, last = cursor.fetchone()
        for start in range(first or 0, (last or -1) + 1, BATCH):
            cursor.execute(FILL, [start, start + BATCH])


def column(model, name, field, kind):
    """Adds it where it is not there yet. Its default stays, for servers that run meanwhile and do not know it."""
    table = f"conversations_{model}"
    return migrations.RunSQL(
        f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {name} {kind}[] NOT NULL DEFAULT '{{}}'",
        f"ALTER TABLE {table} DROP COLUMN {name}",
        state_operations=[migrations.AddField(model, name, field)],
    )


def index(model, fields, name):
    """Makes it, in place of a half made one."""
    return [
        migrations.RunSQL(f"DROP INDEX CONCURRENTLY IF EXISTS {name}", migrations.RunSQL.noop),
        AddIndexConcurrently(model, GinIndex(fields=fields, name=name, gin_pending_list_limit=256)),
    ]


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("conversations", "0005_staff_limits_and_memory_counts")]

    operations = [
        column("exchange", "left_out", ArrayField(models.IntegerField(), default=list), "integer"),
        column("ledger", "considered", ArrayField(models.BigIntegerField(), default=list), "bigint"),
        migrations.RunPython(fill, migrations.RunPython.noop),
        *index("exchange", ["request_ids"], "exchange_by_what_it_sent"),
        *index("ledger", ["considered", "message_ids"], "ledger_by_message"),
    ]
