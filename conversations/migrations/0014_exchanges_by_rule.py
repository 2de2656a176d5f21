"""Exchanges that a rule held for may be few: a list of them need not read the rest."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models
from django.db.models import Q

NAME = "exchange_by_rule"


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("conversations", "0013_lean_ledgers")]

    operations = [
        # In place of a half made one.
        migrations.RunSQL(f"DROP INDEX CONCURRENTLY IF EXISTS {NAME}", migrations.RunSQL.noop),
        AddIndexConcurrently(
            "exchange", models.Index(fields=["-created", "-id"], name=NAME, condition=~Q(rule=""))
        ),
    ]
