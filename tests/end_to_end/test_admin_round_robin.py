"""The admin of two servers behind HAProxy, which gives each request to the next one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from reservoir_site.postgres_folder import embedded_location
from tests.end_to_end.asking import Scope, chat, says
from tests.end_to_end.conftest import StartServer
from tests.haproxy import PROGRAM, HAProxy
from tests.login import logged_in
from tests.server import Server

pytestmark = pytest.mark.skipif(not PROGRAM, reason="needs HAProxy: apt-get install haproxy")


@pytest.fixture
def beside(server: Server, start_server: StartServer, tmp_path: Path) -> Server:
    """A server on a host of its own: it shares the database and the secret with `server`, and no folder."""
    where = embedded_location(server.home)
    database = make_conninfo(host=where.host, port=where.port, user=where.user, dbname=where.dbname)
    secret = (server.home / "secret_key").read_text().strip()
    return start_server({"RESERVOIR_SECRET_KEY": secret}, home=tmp_path / "second", database_url=database)


def test_one_login_holds_on_both_servers(server: Server, beside: Server, scope: Scope, tmp_path: Path) -> None:
    chat(server, scope, says("I keep bees."))
    with HAProxy(tmp_path, [server.port, beside.port]) as balancer:
        url = f"http://127.0.0.1:{balancer.port}"
        with logged_in(url, server.home) as admin:
            pages = [admin.get(path) for path in ["/admin/", "/admin/conversations/message/?q=bees"] * 4]
            assert [page.status_code for page in pages] == [200] * len(pages)
            assert all("I keep bees." in page.text for page in pages[1::2])
            files = re.findall(r'(?:href|src)="(/static/[^"]+)"', pages[0].text)
            assert {admin.get(file).status_code for file in 2 * files} == {200}
            # A form that one server made is taken by the other, and what one says once is shown by either, once.
            form = admin.get("/admin/password_change/").text
            token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', form)
            assert token
            for _ in range(2):
                refused = admin.post(
                    "/admin/password_change/",
                    data={"csrfmiddlewaretoken": token[1], "old_password": "wrong"},
                    headers={"Origin": url},
                )
                assert refused.status_code == 200 and "was entered incorrectly" in refused.text
            # Logged out on one server is logged out on both.
            admin.post("/admin/logout/", data={"csrfmiddlewaretoken": token[1]}, headers={"Origin": url})
            assert {admin.get("/admin/").status_code for _ in range(4)} == {302}
    assert requests_of(server) > 4 and requests_of(beside) > 4


def requests_of(server: Server) -> int:
    return len(re.findall(r"/admin/", server.log))
