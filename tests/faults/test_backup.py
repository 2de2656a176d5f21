"""Backup while serving, restore elsewhere, and every row compared."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest

from reservoir_site.postgres import EmbeddedPostgres
from reservoir_site.postgres_folder import embedded_location
from tests.fake_provider.provider import FakeProvider
from tests.faults.stored import rows
from tests.faults.watching import eventually
from tests.server import ROOT, Server, clean_environment


def manage(home: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = clean_environment() | {"RESERVOIR_HOME": str(home)} | settings
    command = [sys.executable, "manage.py", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def ask(server: Server, text: str, instance: str = "alice") -> None:
    body = {"model": "gpt-4", "messages": [{"role": "user", "content": text}]}
    url = f"{server.base_url('home', instance)}/chat/completions"
    assert httpx.post(url, json=body, trust_env=False, timeout=300).status_code == 200


def every_row(home: Path) -> dict[str, list[str]]:
    """All tables with all their rows, as text."""
    tables = rows(home, "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
    where = embedded_location(home)
    with psycopg.connect(host=where.host, port=where.port, user=where.user, dbname=where.dbname) as connection:
        found = {}
        for (table,) in tables:
            selected = connection.execute(f'SELECT t::text FROM "{table}" t ORDER BY 1'.encode())
            found[table] = [text for (text,) in selected]
        return found


@pytest.fixture(scope="module", autouse=True)
def told(server_of_file: Server) -> None:
    """A server that has stored some messages."""
    for n in range(20):
        ask(server_of_file, f"message {n} with 日本 and \u2028 and 🦉", f"user-{n % 3}")


@contextmanager
def held(home: Path) -> Iterator[None]:
    """Keep the home's PostgreSQL running, so that no command has to start it."""
    postgres = EmbeddedPostgres(home)
    postgres.hold()
    try:
        yield
    finally:
        postgres.release()


def test_a_restored_backup_holds_every_row_and_an_invalid_backup_changes_nothing(
    server: Server, provider: FakeProvider, tmp_path: Path
) -> None:
    file, elsewhere = tmp_path / "reservoir.backup", tmp_path / "elsewhere"
    with held(server.home), held(elsewhere):
        server.stop()
        written = manage(server.home, "backup", str(file))
        assert written.returncode == 0, written.stderr
        assert file.stat().st_mode & 0o077 == 0
        restored = manage(elsewhere, "restore", str(file))
        assert restored.returncode == 0, restored.stderr
        before, after = every_row(server.home), every_row(elsewhere)
        said = len(before["conversations_message"])
        assert said >= 40
        assert before.keys() == after.keys()
        for table in before:
            assert before[table] == after[table], table
        broken = tmp_path / "broken.backup"
        broken.write_bytes(b"PGDMP and then nothing of use")
        for bad in (broken, tmp_path / "missing.backup"):
            refused = manage(elsewhere, "restore", str(bad))
            assert refused.returncode != 0
            assert "Traceback" not in refused.stderr
        assert every_row(elsewhere) == after
        with Server(elsewhere, provider.base_url) as other:
            ask(other, "and on it goes", "user-0")
            eventually(lambda: len(rows(elsewhere, "SELECT id FROM conversations_message")) == said + 2)


def test_a_backup_of_a_running_server_is_consistent_and_restoring_needs_it_stopped(
    server: Server, tmp_path: Path
) -> None:
    file = tmp_path / "reservoir.backup"
    stop = threading.Event()

    def load() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            ask(server, f"message {n}", f"user-{n % 5}")

    clients = [threading.Thread(target=load) for _ in range(4)]
    for client in clients:
        client.start()
    try:
        before = rows(server.home, "SELECT count(*) FROM conversations_message")[0][0]
        written = manage(server.home, "backup", str(file))
        after = rows(server.home, "SELECT count(*) FROM conversations_message")[0][0]
    finally:
        stop.set()
        for client in clients:
            client.join()
    assert written.returncode == 0, written.stderr
    refused = manage(server.home, "restore", str(file))
    assert refused.returncode != 0
    assert "stop the server" in refused.stderr
    elsewhere = tmp_path / "elsewhere"
    assert manage(elsewhere, "restore", str(file)).returncode == 0
    with held(elsewhere):
        # The counters are kept in the transaction that stores a message: a copy made piece by piece would differ.
        counted = "SELECT message_count, (SELECT count(*) FROM conversations_message m WHERE m.instance_id = i.id)"
        counts = rows(elsewhere, f"{counted} FROM conversations_instance i")
        assert all(kept == there for kept, there in counts), counts
        assert before <= sum(there for _, there in counts) <= after


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_an_external_database_is_not_backed_up(command: str, tmp_path: Path) -> None:
    url = "postgresql://somebody@db.example.com/somewhere"
    refused = manage(tmp_path / "home", command, str(tmp_path / "file"), DATABASE_URL=url)
    assert refused.returncode != 0
    assert "pg_dump" in refused.stderr or "pg_restore" in refused.stderr
