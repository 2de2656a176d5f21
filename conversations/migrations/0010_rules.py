"""An exchange says which rule held for it, and a partition what is remembered of it.

Both columns have constant defaults, which stay for servers of the version before: adding them rewrites no table.
"""

from django.db import migrations, models


def column(model, name, field, kind):
    """Adds it if it is missing."""
    table = f"conversations_{model}"
    return migrations.RunSQL(
        f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {name} {kind}",
        f"ALTER TABLE {table} DROP COLUMN IF EXISTS {name}",
        state_operations=[migrations.AddField(model, name, field)],
    )


REMEMBER = [
    ("all", "everything, also what no person asked"),
    ("people", "people's turns"),
    ("nothing", "nothing"),
]


class Migration(migrations.Migration):
    dependencies = [("conversations", "0009_emptied_conversations")]

    operations = [
        column("exchange", "rule", models.TextField(blank=True), "text NOT NULL DEFAULT ''"),
        column(
            "partition",
            "remember",
            models.CharField(choices=REMEMBER, default="people", max_length=8),
            "varchar(8) NOT NULL DEFAULT 'people'",
        ),
    ]
