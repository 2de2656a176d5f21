"""One key among many may have few exchanges: a list of them need not read the rest. Open servers write nothing here."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models
from django.db.models import Q

NAME = "exchange_by_key"


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("conversations", "0018_exchanges_name_their_key")]

    operations = [
        # In place of a half made one.
        migrations.RunSQL(f"DROP INDEX CONCURRENTLY IF EXISTS {NAME}", migrations.RunSQL.noop),
        AddIndexConcurrently(
            "exchange", models.Index(fields=["key_id", "-created", "-id"], name=NAME, condition=~Q(key_id=""))
        ),
    ]
