"""The tour without a key: the real command and its provider without a model."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from proxy.demo.story import HISTORY, QUESTIONS
from reservoir_site.postgres import EmbeddedPostgres
from reservoir_site.postgres_folder import embedded_location

ROOT = Path(__file__).resolve().parent.parent.parent
ANSWERS = ("can't stand coriander", "from platform 7", "red button for ten seconds")


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[Callable[[str], list[Any]]]:
    """A function that queries the commands' database."""
    server = EmbeddedPostgres(tmp_path)

    def ask(sql: str) -> list[Any]:
        where = embedded_location(tmp_path)
        with psycopg.connect(
            dbname=where.dbname, user=where.user, password=where.password, host=where.host, port=where.port
        ) as connection:
            return connection.execute(sql).fetchall()

    server.hold()
    try:
        yield ask
    finally:
        server.release()


def demo(home: Path, *arguments: str, columns: int) -> str:
    environment = os.environ | {
        "RESERVOIR_HOME": str(home),
        "DATABASE_URL": "",
        "COLUMNS": str(columns),
        "OPENAI_API_KEY": "sk-must-not-be-used",
    }
    done = subprocess.run(
        [sys.executable, "manage.py", "demo", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= columns
    assert "sk-must-not-be-used" not in done.stdout
    # Join panels that stand side by side.
    return " ".join(done.stdout.replace("│", " ").split())


def test_the_demo_shows_both_requests_and_leaves_nothing_behind_unless_asked(
    tmp_path: Path, rows: Callable[[str], list[Any]]
) -> None:
    shown = demo(tmp_path, columns=70)
    words = (
        "what the app sent",
        "what the model got",
        "why: the ledger",
        "shown: relevant",
        "Nothing was left behind.",
    )
    for told in (*words, *QUESTIONS):
        assert told in shown
    assert shown.count("I am not a model") >= len(QUESTIONS)
    assert "it leaves at 22:09 from platform 7" in shown
    for table in ("partition", "message", "exchange", "ledger", "embedding"):
        assert rows(f"SELECT count(*) FROM conversations_{table}") == [(0,)], table

    assert "Kept in demo/mira-" in demo(tmp_path, "--keep", columns=170)
    assert rows("SELECT count(*) FROM conversations_message") == [(2 * (len(HISTORY) + len(QUESTIONS)),)]
    shown_texts = rows(
        "SELECT string_agg(m.content, ' ') FROM conversations_ledger l "
        "JOIN conversations_message m ON m.id = ANY(l.message_ids) GROUP BY l.exchange_id ORDER BY l.exchange_id"
    )
    for (text,), remembered in zip(shown_texts, ANSWERS, strict=True):
        assert remembered in text
