"""The admin of a running server, without a browser."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from reservoir_site.postgres_folder import embedded_location
from tests.end_to_end import store
from tests.end_to_end.asking import Scope, chat, says
from tests.end_to_end.conftest import StartServer
from tests.fake_provider.provider import FakeProvider
from tests.login import logged_in
from tests.server import Server


@pytest.fixture
def admin(server: Server) -> Iterator[httpx.Client]:
    with logged_in(server.url, server.home) as client:
        yield client


def test_the_admin_serves_its_own_files_only(admin: httpx.Client) -> None:
    page = admin.get("/admin/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    files = re.findall(r'(?:href|src)="(/static/[^"]+)"', page.text)
    assert len(files) >= 6
    for file in files:
        assert admin.get(file).status_code == 200, file
    assert not re.search(r'(?:href|src)="(?:https?:)?//', page.text)


def test_missing_pages_redirect_to_the_admin(admin: httpx.Client) -> None:
    page = admin.get("/admin/map/999999/")
    assert page.status_code == 404 and 'href="/admin/"' in page.text and "nothing that you may see" in page.text


def test_other_sites_cannot_post_the_login_form(server: Server) -> None:
    refused = httpx.post(f"{server.url}/admin/login/", headers={"Origin": "https://evil.example"}, trust_env=False)
    assert refused.status_code == 403


@pytest.fixture
def bees(server: Server, scope: Scope, provider: FakeProvider) -> int:
    """The id of a conversation about bees and a ladder."""
    chat(server, scope, says("I keep bees.\n# Not a heading"))
    chat(server, scope, says("Where is the ladder?"))
    query = "SELECT i.id FROM conversations_instance i JOIN conversations_partition p ON p.id = i.partition_id"
    (row,) = store.rows(server, f"{query} WHERE p.name = %s AND i.name = %s", *scope)
    return int(row["id"])


def test_a_conversation_is_exported_from_its_page_in_each_format(
    admin: httpx.Client, bees: int, scope: Scope, server: Server
) -> None:
    page = admin.get(f"/admin/conversations/instance/{bees}/change/").text
    links = re.findall(r'href="(/admin/export/[^"]+)"', page)
    lines, markdown, array = (admin.get(link.replace("&amp;", "&")) for link in links)
    said = [json.loads(line) for line in lines.text.splitlines()]
    assert [one["role"] for one in said] == ["user", "assistant"] * 2
    assert said == [*json.loads(array.text)]
    assert {(one["partition"], one["instance"]) for one in said} == {tuple(scope)}
    assert markdown.text.startswith(f"# {scope[0]} / {scope[1]}\n\n## 20")
    assert "\n\\# Not a heading" in markdown.text and "**user**, " in markdown.text
    assert re.search(r'attachment; filename="[\w.-]+\.md"', markdown.headers["content-disposition"])


def test_what_a_search_finds_is_exported(admin: httpx.Client, bees: int) -> None:
    found = admin.get(f"/admin/export/?instance={bees}&q=ladder&format=jsonl").text.splitlines()
    said = [json.loads(line)["content"] for line in found]
    assert "Where is the ladder?" in said and not any("bees" in text for text in said)
    assert admin.get("/admin/export/?format=jsonl").status_code == 404
    assert admin.get(f"/admin/export/?instance={bees}&format=odd").status_code == 404


def test_pages_keep_no_connection_to_the_database(server: Server, admin: httpx.Client, bees: int) -> None:
    def connections() -> int:
        return len(store.rows(server, "SELECT 1 FROM pg_stat_activity WHERE backend_type = 'client backend'"))

    before = connections()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: admin.get("/admin/conversations/exchange/").status_code, range(80)))
        answers += pool.map(lambda _: admin.get(f"/admin/export/?instance={bees}").status_code, range(20))
    assert set(answers) == {200}
    assert connections() <= before + 8


def test_a_server_stops_while_a_page_waits_for_the_database(server: Server, start_server: StartServer) -> None:
    """The server uses an external database, which outlives it."""
    where = embedded_location(server.home)
    conninfo = make_conninfo(host=where.host, port=where.port, user=where.user, dbname=where.dbname)
    secret = (server.home / "secret_key").read_text().strip()
    settings = {"RESERVOIR_SHUTDOWN_SECONDS": "1", "RESERVOIR_SECRET_KEY": secret}
    other = start_server(settings, database_url=conninfo)
    with logged_in(other.url, server.home) as client, ThreadPoolExecutor(1) as pool:
        with psycopg.connect(conninfo) as connection:
            connection.execute("LOCK TABLE conversations_exchange")
            page = pool.submit(client.get, "/admin/conversations/exchange/")
            while not store.rows(server, "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"):
                assert not page.done()
                time.sleep(0.05)
            other.stop(30)
        with suppress(httpx.TransportError):
            assert page.result().status_code >= 500
