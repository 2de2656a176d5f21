"""The version before runs beside this one during a rolling upgrade: it stores and reads in this version's tables.

Each state of the tables since the last release stands for the code that knew it.
"""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from django.db import connection
from django.db.migrations.loader import MigrationLoader
from django.utils import timezone

from proxy.database.health import database_health

pytestmark = pytest.mark.django_db

APP = "conversations"
LAST_RELEASE = "0012_dialects"  # move it with each release: what it had may be dropped in the next


def states() -> list[str]:
    """The migrations from the last release on, except the latest."""
    loader = MigrationLoader(connection)
    (leaf,) = loader.graph.leaf_nodes(APP)
    names = [name for app, name in loader.graph.forwards_plan(leaf) if app == APP]
    return names[names.index(LAST_RELEASE) : -1]


def test_there_is_a_state_to_try() -> None:
    assert states()


def test_the_versions_before_store_and_read_in_these_tables() -> None:
    for name in states():
        apps: Any = MigrationLoader(connection).project_state((APP, name)).apps
        store_and_read(apps, name)


def store_and_read(apps: Any, name: str) -> None:
    """Store an exchange with everything that belongs to it, and read it, by the models of a state."""

    def make(table: str, /, **values: Any) -> Any:
        kind = apps.get_model(APP, table)
        # What a later version made of its rows is not asked of the one before.
        known = {field.name for field in kind._meta.get_fields()}
        return kind.objects.create(**{key: value for key, value in values.items() if key in known})

    now = timezone.now()
    partition = make("Partition", name=f"of {name}")
    instance = make("Instance", partition=partition, name="i")
    exchange = make("Exchange", instance=instance, trace_id=uuid.uuid4(), created=now, model="m", provider="p")
    message = make(
        "Message",
        instance=instance,
        exchange=exchange,
        created=now,
        role="user",
        content="hi",
        payload="{}",
        digest=b"d",
    )
    make("Ledger", instance=instance, exchange=exchange, key=b"k", candidates=[{"id": message.pk}])
    model, _ = apps.get_model(APP, "EmbeddingModel").objects.get_or_create(name="m", defaults={"dimensions": 1})
    make("Embedding", instance=instance, message=message, model=model, start=0, end=2, vector=[1.0])
    for kind in ("Partition", "Instance", "Exchange", "Message", "Ledger", "Embedding", "AuditEntry", "EmbeddingModel"):
        list(apps.get_model(APP, kind).objects.all())


def test_a_server_beside_a_newer_one_is_ready() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO django_migrations (app, name, applied) VALUES (%s, '9999_of_the_next_version', now())", [APP]
        )
    parts, _ = database_health()
    assert parts["migrations"] is None
