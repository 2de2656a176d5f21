"""Providers' credentials at rest, by the functions and by `manage.py credentials`."""

from __future__ import annotations

from io import StringIO

import pytest
from cryptography.fernet import Fernet
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection
from pytest_django import Settings

from access import credentials, keys
from access.audit import Action, Who
from access.credentials import CredentialProblem
from access.keys import KeyProblem, Wanted
from access.models import AuditRecord, Credential
from access.rights import APP
from access.verifying import look_up

pytestmark = pytest.mark.django_db

ME = Who(actor="tester")
SECRET = "sk-live-of-the-team"
OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()


@pytest.fixture(autouse=True)
def encrypted(settings: Settings) -> None:
    settings.RESERVOIR_CREDENTIAL_KEYS = [OLD]


def command(*arguments: str, given: str = "", monkeypatch: pytest.MonkeyPatch | None = None) -> str:
    out = StringIO()
    if monkeypatch:
        monkeypatch.setattr("sys.stdin", StringIO(given))
    call_command("credentials", *arguments, stdout=out, stderr=StringIO())
    return out.getvalue().strip()


def test_a_credential_is_stored_encrypted_and_reaches_the_requests_of_its_keys() -> None:
    credentials.put("team", "openai", SECRET, ME)
    with connection.cursor() as cursor:
        cursor.execute("SELECT row_to_json(c)::text FROM access_credential c")
        assert SECRET not in str(cursor.fetchall())
    wanted = Wanted(name="shop", rights=APP, partitions=["shop"], instances=["*"], credentials=["team"])
    known = look_up(keys.create(wanted, ME).public_id)
    assert known and known.credentials == {"openai": SECRET}
    assert SECRET not in repr(known)
    assert SECRET not in str(list(AuditRecord.objects.values()))


def test_rotating_lets_the_old_key_go(settings: Settings) -> None:
    credentials.put("team", "openai", SECRET, ME)
    settings.RESERVOIR_CREDENTIAL_KEYS = [NEW, OLD]
    assert credentials.rotate(ME) == 1
    settings.RESERVOIR_CREDENTIAL_KEYS = [NEW]
    assert credentials.opened(Credential.objects.get()) == SECRET
    assert AuditRecord.objects.filter(action=Action.CREDENTIALS_ROTATED).exists()


@pytest.mark.parametrize("present", [[NEW], [], ["no key"]])
def test_one_that_cannot_be_read_is_named_with_the_remedy(settings: Settings, present: list[str]) -> None:
    credentials.check()
    credentials.put("team", "openai", SECRET, ME)
    credentials.check()
    settings.RESERVOIR_CREDENTIAL_KEYS = present
    with pytest.raises(CredentialProblem, match="RESERVOIR_CREDENTIAL_KEYS"):
        credentials.check()


def test_the_command_keeps_lists_and_removes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert command("set", "team", "openai", given=f"{SECRET}\n", monkeypatch=monkeypatch) == "Kept."
    assert command("list").startswith("team: openai")
    assert "1 credentials" in command("rotate")
    wanted = Wanted(name="shop", rights=APP, partitions=["shop"], instances=["*"], credentials=["team"])
    keys.create(wanted, ME)
    with pytest.raises(CommandError, match="shop"):
        command("remove", "team")
    keys.revoke(keys.find("shop"), ME)
    command("remove", "team")
    assert not Credential.objects.exists()
    assert Fernet(command("new-key"))
    with pytest.raises(CommandError, match="credentials list"):
        command("remove", "team")


def test_a_key_takes_known_credentials_one_of_each_provider() -> None:
    for name in ("one", "two"):
        credentials.put(name, "openai", SECRET, ME)
    for names in (["one", "two"], ["three"]):
        with pytest.raises(KeyProblem, match="credential"):
            keys.create(Wanted(name="x", rights=APP, partitions=["x"], instances=["*"], credentials=names), ME)
    with pytest.raises(CredentialProblem, match="alone"):
        credentials.put("three", "openai", "two words", ME)
