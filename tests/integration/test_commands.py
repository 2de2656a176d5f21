"""The commands, as people and scripts call them. Real PostgreSQL, the real embedding model."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command, get_commands, load_command_class
from django.utils import timezone

from conversations.backlog import work_off
from conversations.embedders.local import LocalEmbedder
from conversations.embedders.local_models import ENGLISH
from conversations.embedding import active_model
from conversations.management.terminal import moment, safe, size
from conversations.messages import add_messages
from conversations.models import AuditEntry, Message, Partition
from conversations.querysets import Scope
from conversations.turns import Turn
from reservoir_site.backup import BackupError, backup

pytestmark = pytest.mark.django_db

ROOT = Path(__file__).resolve().parent.parent.parent
OURS = ["demo", "evaluate", "export", "import", "index", "ingest", "prune", "reembed", "search", "stats", "view"]
HOSTILE = "\x1b[2J\x1b]0;owned\x07 \u202egnp.exe\u2066 \x9b31m \r\nline\ttab \U0001f9f8 é"

Run = Callable[..., str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command and return its stdout."""

    def call(*arguments: str) -> str:
        out = io.StringIO()
        call_command(*arguments, stdout=out)
        return out.getvalue()

    return call


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | bytes], None]:
    """Sets a command's standard input."""

    def give(text: str | bytes) -> None:
        data = text.encode() if isinstance(text, str) else text
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    return give


ALICE = Scope("my-app", "alice")


def say(*texts: str, scope: Scope = ALICE, days_ago: float = 0) -> list[int]:
    payloads = [{"role": "user" if i % 2 == 0 else "assistant", "content": text} for i, text in enumerate(texts)]
    moments = [timezone.now() - timedelta(days=days_ago) + timedelta(seconds=i) for i in range(len(texts))]
    turns = [Turn.from_payload(json.dumps(p), p) for p in payloads]
    return add_messages(scope=scope, messages=list(zip(turns, moments, strict=True)))


@pytest.mark.parametrize("name", OURS)
def test_examples_in_help_are_valid_commands(name: str) -> None:
    command = load_command_class(get_commands()[name], name)
    parser = command.create_parser("manage.py", name)
    text = parser.format_help()
    assert "examples:" in text
    assert max(map(len, text.splitlines())) <= 130
    examples = re.findall(rf"manage\.py {name}(.*?)(?:[|<>].*)?$", text.partition("examples:")[2], re.MULTILINE)
    assert examples
    for example in examples:
        parser.parse_args(shlex.split(example))


def test_export_and_import_make_a_copy(run: Run, tmp_path: Path, given: Callable[[str], None]) -> None:
    say("one", HOSTILE, "three")
    file = tmp_path / "history.jsonl"
    run("export", "-o", str(file))
    assert file.stat().st_mode & 0o777 == 0o600
    text = run("export", "--partition", "my-app", "--instance", "alice")
    assert text == file.read_text()
    shown = re.sub("#[0-9]+", "#", run("view", "3"))
    run("prune", "--partition", "my-app", "--whole", "--yes")
    assert not Message.objects.exists()
    given(text)
    assert json.loads(run("import", "-", "--json")) == {
        "messages": 3,
        "exchanges": 0,
        "embeddings": 0,
        "known": 0,
        "refused": [],
    }
    assert re.sub("#[0-9]+", "#", run("view", "3")) == shown
    assert json.loads(run("import", str(file), "--json"))["known"] == 3
    assert len(json.loads(run("export", "--format", "json", "--since", "1d"))) == 3


def test_an_import_with_bad_lines_writes_nothing_unless_they_are_to_be_skipped(run: Run, tmp_path: Path) -> None:
    say("one", "two")
    lines = run("export").splitlines()
    run("prune", "--partition", "my-app", "--whole", "--yes")
    file = tmp_path / "bad.jsonl"
    file.write_text("\n".join([lines[0], "{}", lines[1], "nonsense"]))
    with pytest.raises(CommandError, match="2 lines are invalid; nothing was imported"):
        run("import", str(file))
    assert not Message.objects.exists()
    with pytest.raises(CommandError, match="the others were imported"):
        run("import", str(file), "--skip-bad")
    assert Message.objects.count() == 2


def kiln(*turns: tuple[str, str], title: str = "Kiln") -> str:
    """A conversation as ChatGPT exports it."""
    mapping: dict[str, Any] = {"root": {"message": None, "parent": None}}
    for at, (role, text) in enumerate(turns):
        message = {"author": {"role": role}, "create_time": 1_710_000_000 + at, "content": {"parts": [text]}}
        mapping[f"n{at}"] = {"message": message, "parent": f"n{at - 1}" if at else "root"}
    value = {"conversation_id": "c0ffee00-1", "title": title, "mapping": mapping}
    return json.dumps([value | {"current_node": f"n{len(turns) - 1}"}])


def test_an_export_of_another_program_is_imported_once_with_what_was_said_since(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "conversations.json"
    asked, answered = ("user", "How hot is a bisque firing?"), ("assistant", "About 1000 degrees.")
    file.write_text(kiln(asked, answered))
    assert json.loads(run("import", str(file), "--json"))["messages"] == 2
    assert json.loads(run("import", str(file), "--json"))["messages"] == 0
    file.write_text(kiln(asked, answered, ("user", "And a glaze?"), title="Kilns and glazes"))
    done = json.loads(run("import", str(file), "--json"))
    assert (done["messages"], done["known"]) == (1, 2)
    messages = list(Message.objects.select_related("instance__partition", "parent"))
    assert [m.content for m in messages] == [asked[1], answered[1], "And a glaze?"]
    assert {str(m.instance) for m in messages} == {"Kiln (c0ffee00)"}, "the first title stays"
    assert {str(m.instance.partition) for m in messages} == {"chatgpt"}
    assert [m.parent and m.parent.content for m in messages] == [None, asked[1], answered[1]]
    assert [m.created.timestamp() for m in messages] == [1_710_000_000, 1_710_000_001, 1_710_000_002]


def test_conversations_of_another_program_go_into_the_scope_that_is_given(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "conversations.json"
    file.write_text(kiln(("user", "How hot?")))
    run("import", str(file), "--partition", "me", "--instance", "assistant")
    message = Message.objects.select_related("instance__partition").get()
    assert (str(message.instance.partition), str(message.instance)) == ("me", "assistant")
    with pytest.raises(CommandError, match="--instance needs its partition"):
        run("import", str(file), "--instance", "assistant")
    with pytest.raises(CommandError, match="--partition is not a name"):
        run("import", str(file), "--partition", " ")
    file.write_text(run("export"))
    with pytest.raises(CommandError, match="1 lines are invalid"):
        run("import", str(file), "--partition", "me")


def test_an_entry_that_cannot_be_read_is_reported_and_the_others_are_imported(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "conversations.jsonl"
    good = {"messages": [{"role": "user", "name": "Ilse", "content": "Hello"}]}
    file.write_text(f"{json.dumps(good)}\n{json.dumps({'messages': [{'content': 'whose?'}]})}\n")
    with pytest.raises(CommandError, match="1 lines are invalid; nothing was imported"):
        run("import", str(file))
    with pytest.raises(CommandError, match="the others were imported"):
        run("import", str(file), "--skip-bad")
    assert [(m.name, m.content) for m in Message.objects.all()] == [("Ilse", "Hello")]


def test_an_unreadable_file_is_one_sentence(run: Run, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"cannot be read: No such file"):
        run("import", str(tmp_path / "missing"))
    with pytest.raises(CommandError, match=r"cannot be written: No such file"):
        run("export", "-o", str(tmp_path / "no" / "folder"))


def test_a_pipe_can_be_imported(run: Run, tmp_path: Path) -> None:
    say("one", days_ago=3)
    text = run("export")
    Message.objects.all().delete()
    Partition.objects.all().delete()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["tee", pipe], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as writer:
        assert writer.stdin
        writer.stdin.write(text)
        writer.stdin.close()
        run("import", str(pipe))
    message = Message.objects.select_related("instance").get()
    assert message.instance.created == message.created, "the conversation began when its first message was said"


def test_an_export_keeps_pipes_and_links_in_place(run: Run, tmp_path: Path) -> None:
    say("one")
    pipe, link, file = tmp_path / "pipe", tmp_path / "link", tmp_path / "file"
    os.mkfifo(pipe)
    link.symlink_to(file)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        run("export", "-o", str(pipe))
        assert reader.stdout and json.loads(reader.stdout.read())["content"] == "one"
    assert pipe.is_fifo()
    with pytest.raises(BackupError, match="is not a regular file"):
        backup(pipe)
    run("export", "-o", str(link))
    assert link.is_symlink() and json.loads(file.read_text())["content"] == "one"


def test_view_and_search_escape_text_that_could_act_on_the_terminal(run: Run) -> None:
    say("toasters are brave", HOSTILE + " toaster", scope=Scope("my-app", "\u202eal"))
    for shown in (run("view", "5"), run("search", "toaster")):
        assert "toasters are brave" in shown
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)
        assert "\\x1b[2J\\x1b]0;owned\\x07 \\u202egnp.exe\\u2066 \\x9b31m" in shown
        assert "\nline    tab \U0001f9f8 é" in shown
        assert "\\u202eal" in shown
    assert run("view", "5", "--json").isascii()


def test_view_shows_the_latest_of_a_scope_oldest_first(run: Run) -> None:
    say("one", "two", "three")
    say("elsewhere", scope=Scope("my-app", "bob"))
    told = json.loads(run("view", "2", "--partition", "my-app", "--instance", "alice", "--json"))
    assert [message["content"] for message in told] == ["two", "three"]
    assert told[0]["role"] == "assistant"
    with pytest.raises(CommandError, match="not a number from 1"):
        run("view", "0")


def test_search_finds_by_words_and_by_meaning(run: Run) -> None:
    say("the cat sat on the mat", "fine", "invoices are due in March")
    found = json.loads(run("search", "mats", "--json"))
    assert [message["content"] for message in found] == ["the cat sat on the mat"]
    active_model()  # this database may not have its row yet
    embedder = LocalEmbedder(ENGLISH)
    while work_off(embedder):
        pass
    near = json.loads(run("search", "when must bills be paid?", "--semantic", "--limit", "1", "--json"))
    assert [message["content"] for message in near] == ["invoices are due in March"]
    assert 0 < near[0]["similarity"] <= 1
    with pytest.raises(CommandError, match="Nothing was found"):
        run("search", "zebra")


def test_ingest_stores_standard_input(run: Run, given: Callable[[str | bytes], None]) -> None:
    given("Alice prefers tea.\n")
    told = json.loads(run("ingest", "--role", "assistant", "--partition", "p", "--instance", "i", "--json"))
    stored = Message.objects.in_scope(Scope("p", "i")).get()
    assert (stored.pk, stored.role, stored.content) == (told["id"], "assistant", "Alice prefers tea.")
    assert stored.embed_due is not None
    for nothing in ("", " \n", b"\xff\xfe"):
        given(nothing)
        with pytest.raises(CommandError, match=r"Standard input"):
            run("ingest")


def test_a_dry_run_deletes_nothing_and_lists_what_would_be_deleted(run: Run) -> None:
    say("keep", "this", "secret plan")
    told = json.loads(run("prune", "--search", "secret", "--dry-run", "--json"))
    assert (told["dry_run"], told["messages"]) == (True, 1)
    assert Message.objects.count() == 3
    told = json.loads(run("prune", "--search", "secret", "--yes", "--json"))
    assert (told["dry_run"], told["messages"]) == (False, 1)
    assert Message.objects.count() == 2
    assert AuditEntry.objects.get().by.startswith("command line (")


def test_every_criterion_reaches_the_selection(run: Run) -> None:
    old = say("old " + "x" * 3000, "old", days_ago=40)
    new = say("new", "newer")

    def goes(*arguments: str) -> int:
        told: dict[str, Any] = json.loads(run("prune", *arguments, "--dry-run", "--json"))
        return int(told["messages"])

    assert goes("--before", "30d") == 2
    assert goes("--since", "30d") == 2
    assert goes("--larger-than", "2k") == 1
    assert goes("--role", "assistant", "--partition", "my-app") == 2
    assert goes("--id", str(old[0]), "--id", str(new[0])) == 2
    assert goes("--partition", "my-app", "--instance", "alice", "--whole") == 4


def test_retention_is_applied_by_prune(run: Run) -> None:
    say("old", days_ago=40)
    say("new")
    say("forever", scope=Scope("other", "x"), days_ago=40)
    assert json.loads(run("prune", "--retention", "--yes", "--json"))["messages"] == 0
    Partition.objects.filter(name="my-app").update(keep_days=30)
    assert json.loads(run("prune", "--retention", "--yes", "--json"))["messages"] == 1
    assert set(Message.objects.values_list("content", flat=True)) == {"new", "forever"}
    assert AuditEntry.objects.get().by.startswith("retention, command line (")
    with pytest.raises(CommandError, match="takes no other criteria"):
        run("prune", "--retention", "--role", "user")


def test_prune_asks_and_treats_an_empty_answer_as_no(
    run: Run, given: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    say("one", "two")
    given("")
    with pytest.raises(CommandError, match="give --yes"):
        run("prune", "--role", "user")
    for answer, left in (("n", 2), ("", 2), ("y", 1)):
        given(answer + "\n")
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
        if left == 2:
            with pytest.raises(CommandError, match="Nothing was removed"):
                run("prune", "--role", "user")
        else:
            run("prune", "--role", "user")
        assert Message.objects.count() == left


@pytest.mark.parametrize(
    "arguments", [[], ["--partition", "p"], ["--instance", "i", "--role", "user"], ["--whole"], ["--search", " "]]
)
def test_prune_refuses_a_vague_selection(run: Run, arguments: list[str]) -> None:
    with pytest.raises(CommandError, match="See --help"):
        run("prune", *arguments, "--yes")


@pytest.mark.parametrize("place", [["--partition", "mine"], ["--partition", "my-app", "--instance", "bob"]])
def test_prune_reports_unknown_names(run: Run, place: list[str]) -> None:
    say("one")
    with pytest.raises(CommandError, match=r"There is no (partition mine|instance bob)"):
        run("prune", *place, "--whole", "--yes")


def test_stats_show_totals(run: Run) -> None:
    assert json.loads(run("stats", "--json"))["messages"] == 0
    say("one", "two")
    told = json.loads(run("stats", "--json"))
    assert (told["partitions"], told["instances"], told["messages"], told["waiting"]) == (1, 1, 2, 2)
    assert told["bytes"] > 0
    assert "messages" in run("stats")


def test_human_times_and_sizes_are_parsed() -> None:
    assert moment("2026-01-31") == datetime(2026, 1, 31, tzinfo=UTC)
    assert moment("2026-01-31T12:00:00+02:00") == datetime(2026, 1, 31, 10, tzinfo=UTC)
    assert timedelta(days=29.9) < timezone.now() - moment("30d") < timedelta(days=30.1)
    assert (size("5000"), size("64k"), size("2MB")) == (5000, 65536, 2 * 2**20)
    for wrong in ("soon", "30", "999999w"):
        with pytest.raises(Exception, match=wrong):
            moment(wrong)
    with pytest.raises(Exception, match="not a size"):
        size("-1")


def test_safe_text_preserves_ordinary_writing() -> None:
    plain = "Grüße, 你好, עברית, 👩\u200d🔬\n\tok"
    assert safe(plain) == plain


def test_commands_start_the_database_and_stop_quietly_without_a_reader(tmp_path: Path) -> None:
    environment = os.environ | {"RESERVOIR_HOME": str(tmp_path / "home"), "DATABASE_URL": ""}

    def shell(command: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", command.replace("manage", f"{sys.executable} manage.py")],
            cwd=ROOT,
            env=environment,
            input=text,
            capture_output=True,
            text=True,
            timeout=300,
        )

    stored = shell("for i in 1 2; do echo $i | manage ingest --partition p --instance i || exit 1; done")
    assert (stored.returncode, stored.stdout) == (0, ""), stored.stderr
    exported = shell("manage export | head -n 1")
    assert json.loads(exported.stdout)["content"] == "1"
    assert exported.returncode == 0 and "Traceback" not in exported.stderr
    # The reader leaves before the first write.
    for command in ("view 2", "view 2 --json", "stats", "index list", "export"):
        left = shell(f"manage {command} | true")
        assert (left.returncode, left.stderr) == (0, ""), command
    assert shell("manage search zebra").returncode == 1

    # Ctrl-C while it waits for the reader.
    assert shell("manage ingest --partition p --instance i", "long " * 100_000).returncode == 0
    export = [sys.executable, "manage.py", "export"]
    with subprocess.Popen(export, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout and running.stderr and running.stdout.read(1) == b"{"
        running.send_signal(signal.SIGINT)
        assert b"Traceback" not in running.stderr.read()
        assert running.wait(300) == 130


def test_an_instance_needs_its_partition(run: Run) -> None:
    say("one")
    for command in (["view", "5"], ["search", "one"], ["export"]):
        with pytest.raises(CommandError, match="give --partition too"):
            run(*command, "--instance", "alice")


def test_indexes_are_listed_for_scripts_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    say("one", "two", scope=Scope("my-app", HOSTILE[:4]))
    monkeypatch.setattr("conversations.indexes.EARNED", 1)
    (told,) = json.loads(run("index", "list", "--json"))
    assert (told["partition"], told["messages"], told["earned"], told["index"]) == ("my-app", 2, True, None)
    assert "\\x1b[2J" in run("index", "list")
