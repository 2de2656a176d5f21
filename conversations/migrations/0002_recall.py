"""What recall reads: which messages ask, and an index of words and of names. Safe beside live traffic.

Messages that are there already are brought up to date a few thousand at a time, each time in a transaction of its
own; killed, it goes on where it was.
"""

from django.contrib.postgres.indexes import GinIndex
from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models

BATCH = 5_000

FORWARD = """
    UPDATE conversations_message SET
        asks = length(content) <= 600 AND right(rtrim(content, E' \\n\\r\\t'), 1) IN ('?', '？', '؟'),
        lexemes = coalesce(lexemes, '') || array_to_tsvector(ARRAY['#' || instance_id])
    WHERE id >= %s AND id < %s AND NOT coalesce(lexemes, '') @@ ('''#' || instance_id || '''')::tsquery
"""
BACK = """
    UPDATE conversations_message SET lexemes = ts_delete(lexemes, '#' || instance_id)
    WHERE id >= %s AND id < %s
"""


def _in_batches(sql):
    def run(apps, schema_editor):
        with schema_editor.connection.cursor() as cursor:
            cursor.execute("SELECT min(id), max(id) FROM conversations_message")
            first, last = cursor.fetchone()
            for start in range(first or 0, (last or -1) + 1, BATCH):
                cursor.execute(sql, [start, start + BATCH])

    return run


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("conversations", "0001_initial")]

    operations = [
        migrations.AddField("message", "asks", models.BooleanField(default=False)),
        migrations.RunPython(_in_batches(FORWARD), _in_batches(BACK)),
        AddIndexConcurrently("message", GinIndex(fields=["lexemes"], name="message_by_words", fastupdate=False)),
        AddIndexConcurrently(
            "message",
            models.Index(fields=["instance", "name"], name="message_by_name", condition=~models.Q(name="")),
        ),
    ]
