"""An exchange says in which API's words it is kept, and which answer of the provider it continues.

The columns have constant defaults: adding them rewrites no table. The indexes are built beside live traffic.
"""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models
from django.db.models import Q


def column(name, field, default):
    """Adds it if it is missing."""
    return migrations.RunSQL(
        f"ALTER TABLE conversations_exchange ADD COLUMN IF NOT EXISTS {name} text NOT NULL DEFAULT '{default}'",
        f"ALTER TABLE conversations_exchange DROP COLUMN IF EXISTS {name}",
        state_operations=[migrations.AddField("exchange", name, field)],
    )


def index(name, field):
    """Builds it anew if a build broke off."""
    return [
        migrations.RunSQL(f"DROP INDEX CONCURRENTLY IF EXISTS {name}", migrations.RunSQL.noop),
        AddIndexConcurrently(
            "exchange", models.Index(fields=["instance", field], name=name, condition=~Q(**{field: ""}))
        ),
    ]


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("conversations", "0011_standing_wishes")]

    operations = [
        column(
            "dialect",
            models.TextField(default="chat_completions", db_default="chat_completions"),
            "chat_completions",
        ),
        column("response_id", models.TextField(blank=True, default="", db_default=""), ""),
        column("follows", models.TextField(blank=True, default="", db_default=""), ""),
        *index("exchange_by_response", "response_id"),
        *index("exchange_by_what_follows", "follows"),
    ]
