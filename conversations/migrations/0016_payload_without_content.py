"""A payload is stored without the text that its message's content holds. Rows that are there already stay whole.

Going back writes the whole payloads again, some thousands of messages at a time; killed, it goes on where it was.
"""

from django.db import migrations

import conversations.payloads

BATCH = 5_000
CUT = """
    SELECT id, payload, content FROM conversations_message
    WHERE id >= %s AND id < %s AND payload ~ %s
"""


def make_whole(apps, schema_editor):
    with schema_editor.connection.cursor() as cursor:
        cursor.execute("SELECT min(id), max(id) FROM conversations_message")
        first, last = cursor.fetchone()
        for start in range(first or 0, (last or -1) + 1, BATCH):
            cursor.execute(CUT, [start, start + BATCH, f"[{conversations.payloads.MARKS}]"])
            whole = [(conversations.payloads.with_content(stored, text), pk) for pk, stored, text in cursor.fetchall()]
            cursor.executemany("UPDATE conversations_message SET payload = %s WHERE id = %s", whole)


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("conversations", "0015_server_processes")]

    operations = [
        migrations.RunPython(migrations.RunPython.noop, make_whole),
        migrations.AlterField("message", "payload", conversations.payloads.PayloadField()),
    ]
