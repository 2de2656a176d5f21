"""Large ledgers are compressed inside the table. PostgreSQL would move their values into rows of their own.

Changes no row: what is there already stays as it is. Each statement takes its lock for a moment.
"""

from django.db import migrations

COLUMNS = ("packed", "considered", "message_ids")


def storage(kind):
    return "ALTER TABLE conversations_ledger " + ", ".join(f"ALTER {column} SET STORAGE {kind}" for column in COLUMNS)


class Migration(migrations.Migration):
    dependencies = [("conversations", "0016_payload_without_content")]

    operations = [
        migrations.RunSQL(storage("MAIN"), storage("EXTENDED")),
        migrations.RunSQL(
            "ALTER TABLE conversations_ledger SET (toast_tuple_target = 128)",
            "ALTER TABLE conversations_ledger RESET (toast_tuple_target)",
        ),
    ]
