"""Which embedding model is in use, and how it is asked. With none in use yet the next start takes the settings'."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("conversations", "0002_recall")]

    operations = [
        migrations.AddField("embeddingmodel", "spec", models.TextField(blank=True, default=""), preserve_default=False),
        migrations.AddField("embeddingmodel", "active", models.BooleanField(default=False)),
        migrations.AddConstraint(
            "embeddingmodel",
            models.UniqueConstraint(
                fields=["active"], condition=models.Q(active=True), name="one_embedding_model_in_use"
            ),
        ),
    ]
