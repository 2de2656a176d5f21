"""The admin of a running server, without a browser."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from reservoir_site.postgres_folder import embedded_location
from tests.end_to_end import store
from tests.end_to_end.conftest import StartServer
from tests.server import Server


@contextmanager
def logged_in(url: str, home: Path) -> Iterator[httpx.Client]:
    """The first admin of a home's database."""
    login = dict(line.split(" ", 1) for line in (home / "admin_login").read_text().splitlines())
    with httpx.Client(base_url=url, trust_env=False, timeout=300) as client:
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', client.get("/admin/login/").text)
        assert token
        form = {"username": login["user"], "password": login["password"], "csrfmiddlewaretoken": token[1]}
        answer = client.post("/admin/login/?next=/admin/", data=form, headers={"Origin": url})
        assert (answer.status_code, answer.headers["location"]) == (302, "/admin/")
        yield client


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
    assert page.status_code == 404 and 'href="/admin/"' in page.text and "it has been forgotten" in page.text


def test_other_sites_cannot_post_the_login_form(server: Server) -> None:
    refused = httpx.post(f"{server.url}/admin/login/", headers={"Origin": "https://evil.example"}, trust_env=False)
    assert refused.status_code == 403


def test_pages_keep_no_connection_to_the_database(server: Server, admin: httpx.Client) -> None:
    def connections() -> int:
        return len(store.rows(server, "SELECT 1 FROM pg_stat_activity WHERE backend_type = 'client backend'"))

    before = connections()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: admin.get("/admin/conversations/exchange/").status_code, range(80)))
    assert set(answers) == {200}
    assert connections() <= before + 8


def test_a_server_stops_while_a_page_waits_for_the_database(server: Server, start_server: StartServer) -> None:
    """The server uses an external database, which outlives it."""
    where = embedded_location(server.home)
    conninfo = make_conninfo(host=where.host, port=where.port, user=where.user, dbname=where.dbname)
    other = start_server({"RESERVOIR_SHUTDOWN_SECONDS": "1"}, database_url=conninfo)
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
