"""The dashboard sums up a window of exchanges from an index alone: reading their rows takes three times as long."""

from django.contrib.postgres.operations import AddIndexConcurrently, RemoveIndexConcurrently
from django.db import migrations, models

FIGURES = ["provider", "ended", "input_tokens", "output_tokens", "cost", "memory", "memories"]


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("conversations", "0006_what_a_ledger_considered")]

    operations = [
        migrations.RunSQL("DROP INDEX CONCURRENTLY IF EXISTS exchange_figures_by_time", migrations.RunSQL.noop),
        AddIndexConcurrently(
            "exchange", models.Index(fields=["-created"], include=FIGURES, name="exchange_figures_by_time")
        ),
        RemoveIndexConcurrently("exchange", "exchange_by_time"),
    ]
