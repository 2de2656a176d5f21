"""The spool and the database: every record is stored once, and forgetting reaches the spool."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from conversations import forgetting
from conversations.actions import Answered, Asked
from conversations.models import Exchange, Message
from conversations.querysets import Scope
from conversations.selection import Selection
from proxy.errors import Unavailable
from proxy.memory.history import History
from proxy.spool.record import Entry
from proxy.spool.replaying import replay, spool_folder, store_spool
from proxy.spool.writing import Spool, SpoolError, summary
from tests.unit.test_spool import HOME, ROOT, asked, turn

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def spool(tmp_path: Path, settings: Any) -> Iterator[Spool]:
    settings.RESERVOIR_HOME = tmp_path
    spool = Spool(spool_folder(), limit=2**30)
    yield spool
    spool.close()


def exchange(spool: Spool, text: str, *, scope: Scope = HOME, status: int = 200) -> Asked:
    """A question and its answer as a server spools them while PostgreSQL is unreachable."""
    question = asked(text, scope, created=timezone.now(), prompts=((0, '{"role": "system", "content": "Be kind."}'),))
    answer = Answered(timezone.now(), "answered", status, (turn(f"You said: {text}", "assistant"),))
    spool.keep(lambda: Entry(question)).result(300)
    spool.keep(lambda: Entry(replace(question, turns=(), prompts=()), answer, True)).result(300)
    return question


def said() -> list[str]:
    return list(Message.objects.order_by("id").values_list("content", flat=True))


def test_the_spool_of_a_lost_host_is_listed_and_stored(spool: Spool, tmp_path: Path, settings: Any) -> None:
    asked = exchange(spool, "a secret recipe")
    folder, settings.RESERVOIR_HOME = tmp_path / "spool", tmp_path / "another-host"

    def run(*action: str) -> str:
        out = StringIO()
        call_command("spool", *action, stdout=out)
        return out.getvalue()

    assert run("list") == "" and run("status").startswith("0 records wait")
    lines = run("--folder", str(folder), "list").splitlines()
    assert [line.split()[2:] for line in lines] == [[str(asked.trace_id), what, "home/alice"] for what in KINDS]
    assert run("--folder", str(folder), "replay") == "2 records are stored\n"
    assert said() == ["a secret recipe", "You said: a secret recipe"]
    with pytest.raises(CommandError, match="There is no folder"):
        run("--folder", str(tmp_path / "nowhere"), "replay")


KINDS = ("question", "answer")


def test_spooled_records_are_stored_once_however_often_they_are_replayed(spool: Spool) -> None:
    exchange(spool, "one")
    copies = {path: path.read_bytes() for path in spool_folder().glob("*.spool")}
    assert store_spool() == 2
    for path, data in copies.items():  # as after a crash between the commit and the mark
        path.with_name("crashed-1.spool").write_bytes(data)
    assert store_spool() == 2
    assert said() == ["one", "You said: one"]
    (stored,) = Exchange.objects.all()
    assert stored.ended == "answered" and stored.prompts


def test_forgetting_reaches_the_spool_and_leaves_none_of_its_text_on_disk(spool: Spool) -> None:
    exchange(spool, "a secret between us")
    exchange(spool, "hello", scope=Scope("home", "bob"))
    selection = Selection(partition="home", instance="alice", whole=True)
    assert forgetting.count(selection).messages == 2
    assert forgetting.forget(selection, by="test").messages == 2
    assert said() == ["hello", "You said: hello"]
    assert not any(b"secret" in path.read_bytes() for path in spool_folder().iterdir())


def test_an_answer_whose_question_was_forgotten_meanwhile_is_not_stored(spool: Spool) -> None:
    question = asked("a secret", created=timezone.now())
    spool.keep(lambda: Entry(question)).result(300)
    forgetting.forget(Selection(partition="home", instance="alice", whole=True), by="test")
    answer = Answered(timezone.now(), "answered", 200, (turn("You said: a secret", "assistant"),))
    spool.keep(lambda: Entry(replace(question, turns=()), answer, True)).result(300)
    store_spool()
    assert said() == []


def test_a_refused_record_delays_no_other_and_stops_forgetting_with_an_error(spool: Spool) -> None:
    exchange(spool, "impossible", status=10**9)  # no smallint
    exchange(spool, "possible")
    with pytest.raises(SpoolError, match="spool discard"):
        store_spool()
    assert said() == ["possible", "You said: possible"]
    assert summary(spool_folder())["rejected"] == 2
    with pytest.raises(SpoolError, match="spool discard"):
        forgetting.count(Selection(partition="home", instance="alice", whole=True))


def test_a_scope_keeps_the_order_of_its_turns_through_the_spool(spool: Spool) -> None:
    """A client that resends its history: E2's request holds E1, so E1 must be stored first, and only once."""
    first = exchange(spool, "one")
    history = (*first.turns, turn("You said: one", "assistant"), turn("two"))
    second = replace(asked("", created=timezone.now()), turns=history, trace_id=uuid.uuid4())
    spool.keep(lambda: Entry(second)).result(300)
    store_spool()
    assert said() == ["one", "You said: one", "two"]


FILL = """
import os, resource, sys
import django; django.setup()
from tests.unit.test_spool import Path, Spool, SpoolError, keep
spool, kept = Spool(Path(sys.argv[1]), limit=2**30), []
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
for n in range(100):
    try:
        keep(spool, f"{n} " + "x" * 1000)
        kept.append(n)
    except SpoolError as error:
        assert "the disk refused it" in str(error), error
        break
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
keep(spool, "after")
print(*kept)
"""


def test_a_full_disk_loses_only_the_records_it_refused(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    command = [sys.executable, "-c", FILL, str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=True)
    kept = done.stdout.split()
    assert 5 < len(kept) < 20
    found: list[str] = []
    replay(folder, lambda entry, abandoned: found.append(entry.asked.turns[0].content.split()[0]))
    assert found == [*kept, "after"]


def test_the_api_says_what_stops_forgetting(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise SpoolError("`manage.py spool discard` deletes them for good.")

    monkeypatch.setattr(forgetting, "bring_in", [refuse])
    history = History(lambda: None)  # type: ignore[arg-type, return-value]
    forget = history.forget({"partition": "home", "whole": True}, by="test", dry_run=True)
    with pytest.raises(Unavailable, match="spool discard"):
        asyncio.run(forget)
