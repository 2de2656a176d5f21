"""Which messages are standing wishes. Safe beside live traffic.

Users' messages that are there already are looked through a few thousand at a time; killed, it starts over.
"""

from django.conf import settings
from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models
from django.db.models import Q

from conversations.recall.wishes import LOOKED_AT, is_wish

BATCH = 5_000


def mark_wishes(apps, schema_editor):
    with schema_editor.connection.cursor() as cursor:
        cursor.execute("SELECT min(id), max(id) FROM conversations_message")
        first, last = cursor.fetchone()
        for start in range(first or 0, (last or -1) + 1, BATCH):
            cursor.execute(
                "SELECT id, left(content, %s) FROM conversations_message WHERE id >= %s AND id < %s AND role = 'user'",
                [LOOKED_AT, start, start + BATCH],
            )
            wishes = [id_ for id_, text in cursor.fetchall() if is_wish(text, settings.RESERVOIR_LANGUAGE)]
            if wishes:
                cursor.execute("UPDATE conversations_message SET wish = true WHERE id = ANY(%s)", [wishes])


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("conversations", "0010_rules")]

    operations = [
        migrations.RunSQL(
            "ALTER TABLE conversations_message ADD COLUMN IF NOT EXISTS wish boolean NOT NULL DEFAULT false",
            "ALTER TABLE conversations_message DROP COLUMN IF EXISTS wish",
            state_operations=[
                migrations.AddField("message", "wish", models.BooleanField(default=False, db_default=False))
            ],
        ),
        migrations.RunPython(mark_wishes, migrations.RunPython.noop),
        migrations.RunSQL("DROP INDEX CONCURRENTLY IF EXISTS message_wish", migrations.RunSQL.noop),
        AddIndexConcurrently(
            "message", models.Index(fields=["instance", "-created"], name="message_wish", condition=Q(wish=True))
        ),
    ]
