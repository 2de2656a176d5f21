"""Processes that serve on one database: each ends what it opened, and only what a silent one left open is given up."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone
from pytest_django import Settings

from conversations import actions, servers
from conversations.models import Exchange, ServerProcess
from conversations.querysets import Scope
from reservoir_site import hosts
from tests.integration.test_capture import answer, ask, user

pytestmark = pytest.mark.django_db

SCOPE = Scope("tests", "servers")


def process(*, silent: float = 0, **told: object) -> uuid.UUID:
    """A process that was last seen `silent` seconds ago."""
    now = servers._now()
    values = {"name": "other", "home": "/data", "secret": hosts.this_host().secret, "started": now, **told}
    row = ServerProcess.objects.create(id=uuid.uuid4(), seen=now - timedelta(seconds=silent), **values)
    return row.pk


def opened_by(process_id: uuid.UUID | None, *, minutes: float = 2) -> actions.Asked:
    """An exchange that this process opened `minutes` ago."""
    asked = replace(ask([]), trace_id=uuid.uuid4(), scope=SCOPE, served_by=process_id, turns=())
    actions.open_exchange(asked=asked)
    Exchange.objects.filter(trace_id=asked.trace_id).update(created=timezone.now() - timedelta(minutes=minutes))
    return asked


def ended(asked: actions.Asked) -> str:
    return Exchange.objects.get(trace_id=asked.trace_id).ended


def test_only_what_a_silent_process_left_open_is_given_up() -> None:
    ours, others = opened_by(process()), opened_by(process(silent=servers.SILENT_SECONDS / 2))
    silent, unknown = opened_by(process(silent=servers.SILENT_SECONDS + 1)), opened_by(uuid.uuid4())
    just_begun = opened_by(uuid.uuid4(), minutes=0)  # its process may not have spoken yet
    assert servers.give_up_silent() == 2
    assert [ended(one) for one in (ours, others, just_begun)] == ["open"] * 3
    assert [ended(one) for one in (silent, unknown)] == ["interrupted"] * 2


def test_an_exchange_of_the_version_before_has_an_hour() -> None:
    young, old = opened_by(None, minutes=50), opened_by(None, minutes=70)
    assert servers.give_up_silent() == 1
    assert (ended(young), ended(old)) == ("open", "interrupted")


def test_an_answer_that_comes_after_all_ends_its_exchange() -> None:
    asked = ask([user("are you there?")])
    Exchange.objects.update(served_by=uuid.uuid4(), created=timezone.now() - timedelta(minutes=2))
    servers.give_up_silent()
    answer(asked, "yes")
    assert ended(asked) == "answered"


def test_a_process_that_says_goodbye_is_given_up_at_once() -> None:
    servers.say_alive(hosts.this_host())
    servers.say_alive(hosts.this_host())
    assert [row.pk for row in servers.serving()] == [servers.this_process]
    asked = opened_by(servers.this_process)
    assert servers.give_up_silent() == 0
    servers.say_goodbye()
    assert servers.give_up_silent() == 1
    assert ended(asked) == "interrupted"


def test_processes_are_forgotten_after_a_day_but_not_who_has_the_login() -> None:
    process(silent=90_000)
    login = process(silent=90_000, has_login=True)
    process(silent=90_001, has_login=True)
    recent = process(silent=80_000)
    assert servers.forget_silent() == 2
    assert {row.pk for row in ServerProcess.objects.all()} == {login, recent}


def test_another_secret_on_another_host_is_refused() -> None:
    process(secret="00000000", silent=servers.SILENT_SECONDS + 1)  # gone
    own = hosts.this_host()
    process(secret="00000000", name=own.name, home=own.home)  # before this process's secret was changed
    process()
    hosts.check_secret()
    process(secret="00000000", name="second.example")
    with pytest.raises(ImproperlyConfigured, match=r"second\.example .* set RESERVOIR_SECRET_KEY to the same"):
        hosts.check_secret()


def test_the_hint_names_the_host_that_has_the_login(tmp_path: Path, settings: Settings) -> None:
    settings.RESERVOIR_HOME = tmp_path
    assert "createsuperuser" in hosts.login_hint()
    process(name="first.example", has_login=True)
    assert hosts.login_hint() == "login: on first.example, /data/admin_login"
    (tmp_path / "admin_login").touch()
    assert hosts.login_hint() == f"login: {tmp_path / 'admin_login'}"
