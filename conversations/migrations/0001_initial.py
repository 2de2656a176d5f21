import django.contrib.postgres.fields
import django.contrib.postgres.search
import django.db.models.deletion
import pgvector.django.halfvec
import uuid
from django.db import migrations, models
from pgvector.django import VectorExtension


class Migration(migrations.Migration):

    initial = True

    dependencies = [
    ]

    operations = [
        VectorExtension(),
        migrations.CreateModel(
            name='EmbeddingModel',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.TextField(unique=True)),
                ('dimensions', models.PositiveSmallIntegerField()),
                ('created', models.DateTimeField(auto_now_add=True)),
            ],
        ),
        migrations.CreateModel(
            name='Instance',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=200)),
                ('created', models.DateTimeField(auto_now_add=True)),
                ('message_count', models.PositiveIntegerField(default=0)),
                ('exchange_count', models.PositiveIntegerField(default=0)),
                ('last_active', models.DateTimeField(null=True)),
            ],
            options={
                'ordering': ['partition', 'name'],
            },
        ),
        migrations.CreateModel(
            name='Partition',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=200, unique=True)),
                ('created', models.DateTimeField(auto_now_add=True)),
            ],
            options={
                'ordering': ['name'],
            },
        ),
        migrations.CreateModel(
            name='Exchange',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('trace_id', models.UUIDField(default=uuid.uuid4, unique=True)),
                ('created', models.DateTimeField()),
                ('finished', models.DateTimeField(null=True)),
                ('model', models.TextField(blank=True)),
                ('provider', models.TextField(blank=True)),
                ('streamed', models.BooleanField(default=False)),
                ('ended', models.CharField(choices=[('open', 'in progress'), ('answered', 'answered'), ('cut', 'cut short by the provider'), ('gone', 'client gone'), ('failed', 'provider failed'), ('interrupted', 'server stopped')], default='open', max_length=12)),
                ('status', models.PositiveSmallIntegerField(null=True)),
                ('finish_reason', models.TextField(blank=True)),
                ('error', models.TextField(blank=True)),
                ('usage', models.JSONField(null=True)),
                ('input_tokens', models.PositiveIntegerField(null=True)),
                ('output_tokens', models.PositiveIntegerField(null=True)),
                ('cost', models.DecimalField(decimal_places=8, max_digits=14, null=True)),
                ('timings', models.JSONField(default=dict)),
                ('memory', models.CharField(default='on', max_length=8)),
                ('parameters', models.TextField(blank=True)),
                ('prompts', models.JSONField(default=list)),
                ('request_ids', django.contrib.postgres.fields.ArrayField(base_field=models.BigIntegerField(), default=list, size=None)),
                ('instance', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='exchanges', to='conversations.instance')),
            ],
            options={
                'ordering': ['-created', '-id'],
            },
        ),
        migrations.CreateModel(
            name='Message',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('alone', models.BooleanField(default=False)),
                ('choice', models.PositiveSmallIntegerField(default=0)),
                ('created', models.DateTimeField()),
                ('role', models.CharField(max_length=16)),
                ('name', models.TextField(blank=True)),
                ('content', models.TextField(blank=True)),
                ('payload', models.TextField()),
                ('digest', models.BinaryField(max_length=16)),
                ('tokens', models.PositiveIntegerField(default=0)),
                ('partial', models.BooleanField(default=False)),
                ('abandoned', models.BooleanField(default=False)),
                ('lexemes', django.contrib.postgres.search.SearchVectorField(null=True)),
                ('embed_due', models.DateTimeField(null=True)),
                ('exchange', models.ForeignKey(null=True, on_delete=django.db.models.deletion.CASCADE, related_name='messages', to='conversations.exchange')),
                ('instance', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='messages', to='conversations.instance')),
                ('parent', models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='children', to='conversations.message')),
            ],
            options={
                'ordering': ['created', 'id'],
            },
        ),
        migrations.AddField(
            model_name='exchange',
            name='question',
            field=models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='asked_in', to='conversations.message'),
        ),
        migrations.CreateModel(
            name='Embedding',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('start', models.PositiveIntegerField()),
                ('end', models.PositiveIntegerField()),
                ('vector', pgvector.django.halfvec.HalfVectorField()),
                ('model', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='embeddings', to='conversations.embeddingmodel')),
                ('instance', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to='conversations.instance')),
                ('message', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='embeddings', to='conversations.message')),
            ],
        ),
        migrations.AddField(
            model_name='instance',
            name='partition',
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='instances', to='conversations.partition'),
        ),
        migrations.CreateModel(
            name='Ledger',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('key', models.BinaryField(max_length=16)),
                ('candidates', models.JSONField(default=list)),
                ('injected', models.JSONField(default=list)),
                ('message_ids', django.contrib.postgres.fields.ArrayField(base_field=models.BigIntegerField(), default=list, size=None)),
                ('tokens', models.PositiveIntegerField(default=0)),
                ('exchange', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, related_name='ledger', to='conversations.exchange')),
            ],
            options={
                'indexes': [models.Index(fields=['key'], name='ledger_by_key')],
            },
        ),
        migrations.AddIndex(
            model_name='message',
            index=models.Index(fields=['instance', 'created', 'id'], name='message_by_scope_and_time'),
        ),
        migrations.AddIndex(
            model_name='message',
            index=models.Index(fields=['instance', 'digest'], name='message_by_digest'),
        ),
        migrations.AddIndex(
            model_name='message',
            index=models.Index(condition=models.Q(('embed_due__isnull', False)), fields=['embed_due'], name='message_backlog'),
        ),
        migrations.AddIndex(
            model_name='exchange',
            index=models.Index(fields=['instance', '-created'], name='exchange_by_scope_and_time'),
        ),
        migrations.AddIndex(
            model_name='exchange',
            index=models.Index(fields=['-created'], name='exchange_by_time'),
        ),
        migrations.AddIndex(
            model_name='exchange',
            index=models.Index(condition=models.Q(('ended', 'open')), fields=['id'], name='exchange_open'),
        ),
        migrations.AddIndex(
            model_name='embedding',
            index=models.Index(fields=['instance', 'model'], name='embedding_by_scope'),
        ),
        migrations.AddConstraint(
            model_name='embedding',
            constraint=models.UniqueConstraint(fields=('message', 'model', 'start'), name='one_vector_a_piece'),
        ),
        migrations.AddIndex(
            model_name='instance',
            index=models.Index(fields=['-last_active'], name='instance_by_activity'),
        ),
        migrations.AddConstraint(
            model_name='instance',
            constraint=models.UniqueConstraint(fields=('partition', 'name'), name='instance_once_a_partition'),
        ),
    ]
