"""Each exchange names the access key that it came with, so that usage can be told by key.

Safe beside live traffic: the column has a default in the database, and the version before leaves it at that.
"""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("conversations", "0017_compressed_ledgers")]

    operations = [
        migrations.AddField("exchange", "key_id", models.TextField(blank=True, default="", db_default="")),
    ]
