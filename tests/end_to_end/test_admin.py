"""The admin of a running server, without a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.end_to_end import store
from tests.server import Server


@pytest.fixture
def admin(server: Server) -> Iterator[httpx.Client]:
    """Logged in as the first admin."""
    lines = (server.home / "admin_login").read_text().splitlines()
    login = dict(line.split(" ", 1) for line in lines)
    with httpx.Client(base_url=server.url, trust_env=False, timeout=30) as client:
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', client.get("/admin/login/").text)
        assert token
        form = {"username": login["user"], "password": login["password"], "csrfmiddlewaretoken": token[1]}
        answer = client.post("/admin/login/?next=/admin/", data=form, headers={"Origin": server.url})
        assert (answer.status_code, answer.headers["location"]) == (302, "/admin/")
        yield client


def test_the_admin_serves_its_own_files_and_allows_no_others(admin: httpx.Client) -> None:
    page = admin.get("/admin/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    files = re.findall(r'(?:href|src)="(/static/[^"]+)"', page.text)
    assert len(files) >= 6
    for file in files:
        assert admin.get(file).status_code == 200, file
    assert not re.search(r'(?:href|src)="(?:https?:)?//', page.text)


def test_another_site_cannot_log_in_here(server: Server) -> None:
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
