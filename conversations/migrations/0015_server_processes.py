"""Each exchange names the process that is to end it, and each process says that it serves.

Safe beside live traffic: the column is nullable, and the version before leaves it empty.
"""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("conversations", "0014_exchanges_by_rule")]

    operations = [
        migrations.AddField("exchange", "served_by", models.UUIDField(null=True)),
        migrations.CreateModel(
            "ServerProcess",
            [
                ("id", models.UUIDField(primary_key=True, serialize=False)),
                ("name", models.TextField()),
                ("home", models.TextField()),
                ("secret", models.TextField()),
                ("has_login", models.BooleanField(default=False)),
                ("started", models.DateTimeField()),
                ("seen", models.DateTimeField()),
            ],
            options={"verbose_name_plural": "server processes"},
        ),
    ]
