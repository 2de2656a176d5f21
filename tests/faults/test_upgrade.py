"""A data folder of an earlier version is migrated at startup and keeps every row."""

from __future__ import annotations

import subprocess
import sys

from reservoir_site.postgres import EmbeddedPostgres
from tests.fake_provider.provider import FakeProvider
from tests.faults.app import App
from tests.faults.conftest import StartServer
from tests.faults.stored import recovered, rows
from tests.faults.watching import eventually
from tests.server import ROOT, clean_environment

OLD = "0002_recall"
# Columns of those tables in both versions.
KEPT = (
    "SELECT id, instance_id, exchange_id, parent_id, role, payload, digest, created FROM conversations_message",
    "SELECT id, trace_id, instance_id, created, finished, ended, model, request_ids FROM conversations_exchange",
    "SELECT message_id, start, vector::text FROM conversations_embedding",
)


def test_an_older_data_folder_is_upgraded_at_startup_with_every_row(
    start_server: StartServer, provider: FakeProvider
) -> None:
    server = start_server({"RESERVOIR_RECENT_MESSAGES": "2"})
    app = App(server)
    app.ask("my parrot is called Kiko")
    for n in range(5):
        app.ask(f"message {n}")
    eventually(lambda: rows(server.home, "SELECT count(*) FROM conversations_embedding") == [(14,)])
    postgres = EmbeddedPostgres(server.home)
    postgres.hold()
    try:
        server.stop()
        subprocess.run(
            [sys.executable, "manage.py", "migrate", "--verbosity=0", "conversations", OLD],
            cwd=ROOT,
            env=clean_environment() | server.settings,
            check=True,
        )
        migrations = "SELECT count(*) FROM django_migrations WHERE app = 'conversations'"
        assert rows(server.home, migrations) == [(2,)]
        before = [sorted(map(str, rows(server.home, query))) for query in KEPT]
        server.start()
        recovered(server)
        assert [sorted(map(str, rows(server.home, query))) for query in KEPT] == before
        provider.reset()
        assert app.memory("what is my parrot called?") == "on"
        assert "Kiko" in provider.chats[-1].body.decode()
        assert rows(server.home, migrations)[0][0] > 2
    finally:
        postgres.release()
