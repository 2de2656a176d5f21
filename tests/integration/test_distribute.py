"""The plan of `distribute` covers the database as it is, and the code works with the keys that it makes."""

from __future__ import annotations

from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from conversations import catalog
from conversations.distribution import places, steps
from conversations.models import Exchange, Message
from tests.integration.test_statements_name_the_scope import CALL, RESULT, exchange

pytestmark = pytest.mark.django_db


def test_every_table_has_its_place() -> None:
    where = places(catalog.read())
    assert set(where.distributed) == {
        f"conversations_{name}" for name in ("instance", "exchange", "ledger", "message", "embedding")
    }
    assert set(where.copied) == {"conversations_partition", "conversations_embeddingmodel"}


def test_every_key_of_a_distributed_table_is_in_the_plan() -> None:
    found = catalog.read()
    where, plan = places(found), "\n".join(steps(found))
    keys = [key for key in found.keys if key.table in where.distributed and key.name != "conversations_instance_pkey"]
    foreign = [key for key in found.foreign_keys if key.table in where.distributed]
    assert len(keys) >= 9 and len(foreign) >= 10
    for name in [*(key.name for key in keys), *(key.name for key in foreign)]:
        assert plan.count(f'"{name}"') == 2  # taken away, and made anew


def test_exchanges_are_stored_and_recalled_with_the_keys_of_a_distributed_database() -> None:
    with connection.cursor() as cursor:
        for statement in steps(catalog.read()):
            if not statement.startswith("SELECT create_"):
                cursor.execute(statement)
    left = steps(catalog.read())
    assert not any("PRIMARY KEY" in statement or "UNIQUE" in statement for statement in left)
    history = [{"role": "user", "content": "My parrot is called Kiko."}]
    exchange(history, CALL)
    exchange([*history, CALL, RESULT], {"role": "assistant", "content": "A fine name."})
    assert (Exchange.objects.count(), Message.objects.count()) == (2, 4)


def test_the_command_refuses_elsewhere_in_one_sentence() -> None:
    for options in ([], ["--dry-run"]):
        with pytest.raises(CommandError, match="has no Citus"):
            call_command("distribute", *options, stdout=StringIO())
