from django.db import migrations, models

# Texts of which the planner keeps no sample: what is forgotten would live on in it, and no query searches them.
TEXTS = {
    "conversations_message": ("content", "payload", "name"),
    "conversations_exchange": ("parameters", "prompts", "error"),
    "conversations_ledger": ("candidates", "injected"),
}
KEEP_NO_SAMPLES = [
    f"ALTER TABLE {table} ALTER COLUMN {column} SET STATISTICS 0" for table, columns in TEXTS.items() for column in columns
]


class Migration(migrations.Migration):

    dependencies = [
        ('conversations', '0003_embedding_model_in_use'),
    ]

    operations = [
        migrations.AddField(
            model_name='partition',
            name='keep_days',
            field=models.PositiveIntegerField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name='message',
            name='origin',
            field=models.UUIDField(null=True),
        ),
        migrations.AddConstraint(
            model_name='message',
            constraint=models.UniqueConstraint(condition=models.Q(('origin__isnull', False)), fields=('origin',), name='imported_once'),
        ),
        migrations.CreateModel(
            name='AuditEntry',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('created', models.DateTimeField(auto_now_add=True)),
                ('by', models.TextField()),
                ('criteria', models.JSONField()),
                ('counts', models.JSONField()),
            ],
            options={
                'verbose_name_plural': 'audit entries',
                'ordering': ['-created', '-id'],
                'indexes': [models.Index(fields=['-created'], name='audit_by_time')],
            },
        ),
        migrations.RunSQL(KEEP_NO_SAMPLES, migrations.RunSQL.noop),
    ]
