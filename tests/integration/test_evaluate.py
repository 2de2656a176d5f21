"""`manage.py evaluate` on a small file: real PostgreSQL, real embedder."""

from __future__ import annotations

import io
import json
from pathlib import Path

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from conversations.embedding import configured_embedder
from conversations.models import Embedding, Message, Partition
from conversations.querysets import SCRATCH
from conversations.scratch import LOCKS, remove_leftovers, scratch_partition
from proxy.evaluation import questions, trial
from proxy.providers import tokens

pytestmark = pytest.mark.django_db

KEYS = [
    "recall@5",
    "recall@10",
    "recall@20",
    "any@10",
    "all@10",
    "ndcg@10",
    "mrr",
    "recall@1000tok",
    "recall@2000tok",
    "recall@block",
    "mean_tokens",
    "p50_ms",
    "p95_ms",
    "questions",
]
FACTS = (
    "My sister Nora breeds alpacas in Wales.",
    "The boiler was repaired by a man called Finch.",
    "I am allergic to walnuts.",
    "We moved to Lisbon in the spring of 2019.",
    "My violin was built in Cremona.",
    "On Fridays I teach chess to children.",
)


def file(tmp_path: Path) -> Path:
    messages = [
        {
            "id": f"m{at}",
            "role": ("user", "assistant")[at % 2],
            "name": ("Ada", "Bo")[at % 2],
            "content": FACTS[at // 2] if at % 2 == 0 else "I see, thank you for telling me.",
            "created_at": f"2024-03-0{1 + at // 4}T10:{at:02}:00Z",
        }
        for at in range(2 * len(FACTS))
    ]
    questions = [
        {"id": "q1", "text": "Which animals does the sister breed?", "category": "family", "evidence": ["m0"]},
        {"id": "q2", "text": "What nuts must be avoided?", "category": "health", "evidence": ["m4"]},
    ]
    path = tmp_path / "questions.json"
    path.write_text(json.dumps({"conversations": [{"id": "ada", "messages": messages, "questions": questions}]}))
    return path


def evaluate(*arguments: object) -> str:
    out = io.StringIO()
    call_command("evaluate", *map(str, arguments), stdout=out)
    return out.getvalue()


def test_json_holds_the_figures_overall_and_by_category(tmp_path: Path) -> None:
    report = json.loads(evaluate(file(tmp_path), "--json"))
    assert list(report["overall"]) == KEYS
    assert {name: list(those) for name, those in report["categories"].items()} == {"family": KEYS, "health": KEYS}
    assert report["overall"]["questions"] == 2
    assert report["overall"]["recall@5"] == 1
    assert 20 < report["overall"]["mean_tokens"] <= 1000
    assert 0 < report["overall"]["p50_ms"] <= report["overall"]["p95_ms"]
    assert report["rendered"] == {"budget": 1000, "recall": 1.0}


def test_the_table_names_every_category(tmp_path: Path) -> None:
    printed = evaluate(file(tmp_path))
    assert [word for word in ("overall", "family", "health", "R@10", "100.0") if word not in printed] == []


def test_a_part_of_recall_can_be_left_out_to_show_its_worth(tmp_path: Path) -> None:
    report = json.loads(evaluate(file(tmp_path), "--json", "--compare", "without-vector"))
    compared = report["compared"]["without-vector"]["overall"]
    assert list(compared) == KEYS
    assert compared["mrr"] < report["overall"]["mrr"], "without vectors, breeding is no animal"


def test_plain_rankings_stand_beside_the_formula(tmp_path: Path) -> None:
    report = json.loads(evaluate(file(tmp_path), "--json", "--baseline", "dense,bm25", "--baseline", "rrf"))
    assert list(report["baselines"]) == ["dense", "bm25", "rrf"]
    assert report["baselines"]["bm25"]["overall"]["recall@block"] < report["overall"]["recall@block"] == 1
    printed = evaluate(file(tmp_path), "--baseline", "rrf")
    assert "rrf" in printed
    with pytest.raises(CommandError, match="tfidf"):
        evaluate(file(tmp_path), "--baseline", "tfidf")


def test_several_files_are_one_table(tmp_path: Path) -> None:
    one = file(tmp_path)
    other = one.with_name("others.json")
    other.write_text(one.read_text())
    printed = evaluate(one, other, "--baseline", "dense")
    assert [word for word in ("questions.json", "others.json", "dense") if word not in printed] == []
    report = json.loads(evaluate(one, other, "--json"))
    assert list(report["files"]) == [str(one), str(other)]
    assert report["files"][str(other)]["overall"]["recall@5"] == 1


def test_evaluation_leaves_nothing_behind(tmp_path: Path) -> None:
    evaluate(file(tmp_path))
    assert not Partition.objects.exists()
    assert not Message.objects.exists()
    assert not Embedding.objects.exists()


def test_imported_messages_keep_their_times_names_roles_and_order(tmp_path: Path) -> None:
    tokens.prepare(tmp_path / "tiktoken")
    embedder = configured_embedder()
    conversations = questions.read(file(tmp_path).read_text())
    with trial.imported(conversations, embedder, lambda done: None):
        stored = list(Message.objects.order_by("created", "id"))
        assert [m.content for m in stored] == [said.content for said in conversations[0].messages]
        assert [m.created for m in stored] == [said.created for said in conversations[0].messages]
        assert [(m.role, m.name) for m in stored[:2]] == [("user", "Ada"), ("assistant", "Bo")]
        assert [m.parent_id for m in stored] == [None, *(m.pk for m in stored[:-1])]
        assert json.loads(stored[0].payload) == {"role": "user", "content": FACTS[0], "name": "Ada"}
        assert Embedding.objects.values("message").distinct().count() == len(stored)
        assert not Message.objects.backlog().exists()
        assert not Message.objects.filter(lexemes=None).exists()
        assert stored[0].instance.message_count == len(stored)
    embedder.close()


def test_leftovers_of_dead_runs_are_removed_and_running_ones_kept(tmp_path: Path) -> None:
    Partition.objects.create(name=f"{SCRATCH}{'0' * 32}")
    lookalike = Partition.objects.create(name=f"{SCRATCH}notes")
    mine = Partition.objects.create(name="mine")
    running = Partition.objects.create(name=f"{SCRATCH}{'1' * 32}")
    wanted = ("dbname", "user", "password", "host", "port")
    parameters = {key: value for key, value in connection.get_connection_params().items() if key in wanted}
    with psycopg.connect(**parameters) as other:  # as another process would
        other.execute("SELECT pg_advisory_lock(%s, hashtext(%s))", [LOCKS, running.name])
        assert remove_leftovers() == 1
    assert set(Partition.objects.values_list("pk", flat=True)) == {lookalike.pk, mine.pk, running.pk}


def test_an_interrupted_run_cleans_up(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), scratch_partition() as name:
        Partition.objects.create(name=name)
        raise KeyboardInterrupt
    assert not Partition.objects.exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot be read"),
        (b"\xff\xfe", "is not UTF-8"),
        (b'{"conversations":\n [}', r"questions\.json, line 2, column 3: this is not JSON"),
        (b'{"conversations": []}', "none has a question"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    path = tmp_path / "questions.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CommandError, match=sentence):
        evaluate(path)
