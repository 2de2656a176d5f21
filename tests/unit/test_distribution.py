"""The plan of a distributed database is made from the catalog alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from conversations.distribution import SCOPES, Catalog, ForeignKey, Key, NoPlace, places, steps

PARTITION, MESSAGE, USER = "conversations_partition", "conversations_message", "auth_user"
CATALOG = Catalog(
    tables={
        SCOPES: ("id", "partition_id", "name"),
        PARTITION: ("id", "name"),
        MESSAGE: ("id", "instance_id", "parent_id", "origin"),
        USER: ("id", "name"),
    },
    keys=(
        Key(SCOPES, "instance_pkey", ("id",), "primary"),
        Key(SCOPES, "instance_once", ("partition_id", "name")),
        Key(PARTITION, "partition_pkey", ("id",), "primary"),
        Key(MESSAGE, "message_pkey", ("id",), "primary"),
        Key(MESSAGE, "imported_once", ("origin",), "index", "(origin IS NOT NULL)"),
        Key(USER, "user_pkey", ("id",), "primary"),
    ),
    foreign_keys=(
        ForeignKey(SCOPES, "instance_of", ("partition_id",), PARTITION, ("id",)),
        ForeignKey(MESSAGE, "message_of", ("instance_id",), SCOPES, ("id",)),
        ForeignKey(MESSAGE, "message_after", ("parent_id",), MESSAGE, ("id",)),
    ),
)


def test_tables_of_a_scope_are_distributed_and_those_they_refer_to_are_copied() -> None:
    where = places(CATALOG)
    assert where.distributed == {SCOPES: "id", MESSAGE: "instance_id"}
    assert where.copied == (PARTITION,)


def test_keys_of_distributed_tables_get_the_scope_and_keep_their_names() -> None:
    todo = steps(CATALOG)
    assert f'ALTER TABLE {MESSAGE} ADD CONSTRAINT "message_pkey" PRIMARY KEY ("instance_id", "id")' in todo
    assert f'ALTER TABLE {SCOPES} ADD CONSTRAINT "instance_once" UNIQUE ("partition_id", "name", "id")' in todo
    index = 'CREATE UNIQUE INDEX "imported_once" ON conversations_message ("instance_id", "origin")'
    assert f"{index} WHERE (origin IS NOT NULL)" in todo
    after = f'FOREIGN KEY ("instance_id", "parent_id") REFERENCES {MESSAGE} ("instance_id", "id")'
    assert any(after in statement for statement in todo)
    of_a_scope = f'FOREIGN KEY ("instance_id") REFERENCES {SCOPES} ("id")'
    assert any(of_a_scope in statement for statement in todo)
    assert not any('"instance_pkey"' in statement or '"partition_pkey"' in statement for statement in todo)


def test_tables_are_placed_after_their_keys_are_gone_and_before_they_come_back() -> None:
    todo = steps(CATALOG)
    placing = [at for at, statement in enumerate(todo) if statement.startswith("SELECT create_")]
    dropping = [at for at, statement in enumerate(todo) if "DROP" in statement]
    adding = [at for at, statement in enumerate(todo) if " ADD " in statement or "CREATE UNIQUE" in statement]
    assert max(dropping) < min(placing) <= max(placing) < min(adding)
    assert todo[placing[0]] == f"SELECT create_reference_table('{PARTITION}')"


def test_nothing_is_left_of_a_plan_that_was_carried_out() -> None:
    done = Catalog(
        tables=CATALOG.tables,
        keys=(
            *(key for key in CATALOG.keys if key.table in (PARTITION, USER)),
            Key(SCOPES, "instance_pkey", ("id",), "primary"),
            Key(SCOPES, "instance_once", ("partition_id", "name", "id")),
            Key(MESSAGE, "message_pkey", ("instance_id", "id"), "primary"),
            Key(MESSAGE, "imported_once", ("instance_id", "origin"), "index", "(origin IS NOT NULL)"),
        ),
        foreign_keys=(
            *CATALOG.foreign_keys[:2],
            ForeignKey(MESSAGE, "message_after", ("instance_id", "parent_id"), MESSAGE, ("instance_id", "id")),
        ),
        placed=frozenset({SCOPES, MESSAGE, PARTITION}),
    )
    assert steps(done) == []


def test_a_scope_that_may_be_missing_is_filled_from_what_the_row_refers_to() -> None:
    ledger = "conversations_ledger"
    catalog = Catalog(
        tables=CATALOG.tables | {ledger: ("id", "instance_id", "message_id")},
        foreign_keys=(*CATALOG.foreign_keys, ForeignKey(ledger, "of", ("message_id",), MESSAGE, ("id",))),
        nullable=frozenset({ledger}),
    )
    filled, required, *_ = steps(catalog)
    assert filled.startswith(f"UPDATE {ledger} SET instance_id = o.instance_id FROM {MESSAGE} o WHERE o.id")
    assert required == f"ALTER TABLE {ledger} ALTER COLUMN instance_id SET NOT NULL"


def test_a_table_that_refers_to_a_scopes_rows_needs_the_scope() -> None:
    note = ForeignKey("conversations_note", "of", ("message_id",), MESSAGE, ("id",))
    catalog = Catalog(
        tables=CATALOG.tables | {"conversations_note": ("id", "message_id")},
        foreign_keys=(*CATALOG.foreign_keys, note),
    )
    with pytest.raises(NoPlace, match="give it the column instance_id"):
        places(catalog)


def test_triggers_go_before_their_table_is_distributed() -> None:
    watched = replace(CATALOG, triggers=((MESSAGE, "rewritten"), (USER, "kept")))
    todo = steps(watched)
    assert todo.index(f'DROP TRIGGER "rewritten" ON {MESSAGE}') < next(
        at for at, statement in enumerate(todo) if statement.startswith("SELECT create_")
    )
    assert not any('"kept"' in statement for statement in todo)
