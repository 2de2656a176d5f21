"""Lists sort exchanges by cost, tokens and duration, find them by provider and model, and find messages by their day,
without reading the rest.
"""

from django.contrib.postgres.indexes import BrinIndex
from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models
from django.db.models import BigIntegerField, F, Q
from django.db.models.fields.json import KeyTransform
from django.db.models.functions import Cast, Left

TOTAL_TOKENS = Cast("input_tokens", BigIntegerField()) + Cast("output_tokens", BigIntegerField())
HAS_TOKENS = Q(input_tokens__isnull=False, output_tokens__isnull=False)
TOTAL_MS, HAS_MS = KeyTransform("total", "timings"), Q(timings__has_key="total")
NEWEST = F("id").desc()

INDEXES = [
    ("exchange", models.Index(Left("provider", 200), Left("model", 200), name="exchange_by_provider_and_model")),
    ("exchange", models.Index(fields=["-cost", "-id"], name="exchange_by_cost", condition=Q(cost__isnull=False))),
    ("exchange", models.Index(TOTAL_TOKENS.desc(), NEWEST, name="exchange_by_tokens", condition=HAS_TOKENS)),
    ("exchange", models.Index(TOTAL_MS.desc(), NEWEST, name="exchange_by_duration", condition=HAS_MS)),
    ("message", BrinIndex(fields=["created"], name="message_by_day", pages_per_range=32, autosummarize=True)),
]


def add(model, index):
    """The index, in place of a half made one."""
    return [
        migrations.RunSQL(f"DROP INDEX CONCURRENTLY IF EXISTS {index.name}", migrations.RunSQL.noop),
        AddIndexConcurrently(model, index),
    ]


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("conversations", "0019_exchanges_by_key")]

    operations = [
        migrations.AlterModelOptions("instance", {"ordering": ["partition", "name"], "verbose_name": "conversation"}),
        *(operation for model, index in INDEXES for operation in add(model, index)),
    ]
