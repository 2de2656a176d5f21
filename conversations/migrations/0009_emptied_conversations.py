"""A conversation that was emptied has no latest message; it is no longer taken for the one that was active last."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("conversations", "0008_rare_values")]

    operations = [
        migrations.RunSQL(
            "UPDATE conversations_instance SET last_active = created WHERE last_active IS NULL",
            migrations.RunSQL.noop,
        )
    ]
