"""Exchanges that failed or went without memory, and messages of tools, may be few: a list of them need not read the rest."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models
from django.db.models import Q


def index(model, fields, name, condition):
    """Makes it, in place of a half made one."""
    return [
        migrations.RunSQL(f"DROP INDEX CONCURRENTLY IF EXISTS {name}", migrations.RunSQL.noop),
        AddIndexConcurrently(model, models.Index(fields=fields, name=name, condition=condition)),
    ]


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("conversations", "0007_figures_by_time")]

    operations = [
        *index("exchange", ["-created", "-id"], "exchange_not_answered", ~Q(ended="answered")),
        *index("exchange", ["-created", "-id"], "exchange_without_memory", ~Q(memory="on")),
        *index("message", ["-id"], "message_of_tool", Q(role="tool")),
    ]
