"""Making, rotating and revoking keys, by the functions and by `manage.py key`."""

from __future__ import annotations

import json
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import Error, connection, transaction
from django.utils import timezone
from pytest_django import Settings

from access import audit, keys
from access.audit import Action, Who
from access.key_format import make, parse
from access.keys import KeyProblem, Wanted
from access.models import AccessKey, AuditRecord
from access.rights import APP, Right
from access.verifying import keys_exist, look_up, made_with_another_pepper, note_use

pytestmark = pytest.mark.django_db

ME = Who(actor="tester")


def create(name: str = "shop", **changes: Any) -> str:
    wanted: dict[str, Any] = {"name": name, "rights": APP, "partitions": ["shop"], "instances": ["*"]} | changes
    return keys.create(Wanted(**wanted), ME).text


def is_accepted(text: str) -> bool:
    key = parse(text)
    assert key
    known = look_up(key.public_id)
    return known is not None and known.accepts(text)


def command(*arguments: str) -> str:
    out = StringIO()
    call_command("key", *arguments, stdout=out, stderr=StringIO())
    return out.getvalue().strip()


def everything_stored() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT row_to_json(k)::text FROM access_accesskey k")
        rows = cursor.fetchall()
        cursor.execute("SELECT row_to_json(a)::text FROM access_auditrecord a")
        return str(rows + cursor.fetchall())


def test_a_key_is_accepted_and_stored_nowhere() -> None:
    assert not keys_exist()
    text = create()
    assert is_accepted(text)
    assert keys_exist()
    assert text.split("_")[3] not in everything_stored()


def test_another_key_with_the_same_id_is_refused() -> None:
    key = parse(create())
    assert key
    assert not is_accepted(make("app", key.public_id).text)
    assert look_up(make("app").public_id) is None


def test_a_rotation_overlaps_once() -> None:
    first = create()
    row = AccessKey.objects.get()
    second = keys.rotate(row, ME).text
    assert is_accepted(first) and is_accepted(second)
    third = keys.rotate(row, ME, overlap=timedelta(0)).text
    assert [is_accepted(text) for text in (first, second, third)] == [False, False, True]


def test_expired_and_revoked_keys_are_refused() -> None:
    text = create(expires=timezone.now() + timedelta(hours=1))
    assert is_accepted(text)
    AccessKey.objects.update(expires=timezone.now() - timedelta(seconds=1))
    assert not is_accepted(text)
    other = create("other")
    keys.revoke(keys.find("other"), ME)
    assert not is_accepted(other)
    assert keys_exist()  # the door does not open again
    with pytest.raises(KeyProblem, match="revoked"):
        keys.rotate(AccessKey.objects.get(name="other"), ME)


@pytest.mark.parametrize(
    "changes",
    [
        {"partitions": []},
        {"partitions": ["a*"]},
        {"instances": [""]},
        {"rights": []},
        {"name": " "},
        {"expires": timezone.now() - timedelta(days=1)},
    ],
)
def test_keys_that_make_no_sense_are_not_made(changes: dict[str, Any]) -> None:
    with pytest.raises(KeyProblem):
        create(**changes)
    create()
    with pytest.raises(KeyProblem, match="There is a key named"):
        create()


def test_another_pepper_is_noticed(settings: Settings) -> None:
    text = create()
    assert made_with_another_pepper() is None
    settings.RESERVOIR_KEY_PEPPER = "another"
    assert made_with_another_pepper() == "shop"
    assert not is_accepted(text)


def test_the_last_use_is_noted() -> None:
    key = parse(create())
    assert key
    note_use([(key.public_id, 1_800_000_000.0)])
    assert AccessKey.objects.get().last_used is not None


def test_every_change_is_in_the_audit_which_keeps_it() -> None:
    create()
    row = AccessKey.objects.get()
    keys.rotate(row, ME)
    keys.revoke(row, ME)
    keys.revoke(row, ME)  # changes nothing
    records = list(AuditRecord.objects.order_by("id"))
    assert [record.action for record in records] == [Action.KEY_CREATED, Action.KEY_ROTATED, Action.KEY_REVOKED]
    assert {(record.actor, record.details["key"]) for record in records} == {("tester", row.public_id)}
    for change in (lambda: AuditRecord.objects.update(actor="nobody"), lambda: AuditRecord.objects.all().delete()):
        with pytest.raises(Error, match="append-only"), transaction.atomic():
            change()
    audit.record(Action.DENIED, Who(key_id=row.public_id), partition="shop")
    assert AuditRecord.objects.count() == 4


def test_the_command_makes_lists_rotates_and_revokes() -> None:
    text = command("create", "shop", "--partition", "shop", "--instance", "team/*", "--expires", "90d")
    assert is_accepted(text)
    (told,) = json.loads(command("list", "--json"))
    assert (told["name"], told["rights"], told["instances"]) == ("shop", ["complete", "recall"], ["team/*"])
    assert text not in command("list") and "works until" in command("list")
    other = command("rotate", "shop", "--overlap", "0m")
    assert is_accepted(other) and not is_accepted(text)
    assert "5 seconds" in command("revoke", told["id"])
    assert not is_accepted(other)
    assert "revoked" in command("list")


def test_the_command_explains_what_is_wrong() -> None:
    with pytest.raises(CommandError, match="key list"):
        command("revoke", "nothing")
    with pytest.raises(CommandError, match="no pattern"):
        command("create", "x", "--partition", "a*")
    with pytest.raises(CommandError, match="not a span"):
        command("rotate", "x", "--overlap", "soon")


def test_a_key_that_manages_looks_different() -> None:
    assert create(rights=[Right.MANAGE]).startswith("rsv_ops_")


def test_the_first_key_says_that_it_closes_the_door() -> None:
    said = StringIO()
    for name in ("one", "two"):
        call_command("key", "create", name, "--partition", "*", stdout=StringIO(), stderr=said)
    assert said.getvalue().count("every request to the API needs a key") == 1
