"""The admin behind a proxy that ends TLS: login, cookies, HSTS, addresses; and slowing down those who guess."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.conftest import StartServer
from tests.end_to_end.tls_proxy import TlsProxy
from tests.server import ROOT, Server, ServerDied, clean_environment

FAILURES = 10  # wrong passwords before an answer of 429


class Browser(httpx.Client):
    """A browser that reaches the public name at the proxy's address."""

    def __init__(self, proxy: TlsProxy) -> None:
        transport = httpx.HTTPTransport(verify=proxy.trust())
        super().__init__(transport=transport, timeout=300, trust_env=False)
        self._proxy = proxy

    def send(self, request: httpx.Request, **named: object) -> httpx.Response:
        request.headers["Host"] = f"{self._proxy.host}:{self._proxy.port}"
        request.extensions["sni_hostname"] = self._proxy.host
        request.url = request.url.copy_with(host="127.0.0.1")
        return super().send(request, **named)  # type: ignore[arg-type]


def login_of(server: Server) -> dict[str, str]:
    lines = (server.home / "admin_login").read_text().splitlines()
    login = dict(line.split(" ", 1) for line in lines)
    return {"username": login["user"], "password": login["password"]}


def cookies(browser: Browser) -> str:
    return "; ".join(f"{cookie.name}={cookie.value}" for cookie in browser.cookies.jar)


def log_in(browser: Browser, url: str, **form: str) -> httpx.Response:
    page = browser.get(f"{url}/admin/login/")
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)
    assert token, page.text
    headers = {"Origin": url, "Referer": f"{url}/admin/login/", "Sec-Fetch-Site": "same-origin"}
    headers["Cookie"] = cookies(browser)
    form |= {"csrfmiddlewaretoken": token[1], "next": "/admin/"}
    return browser.post(f"{url}/admin/login/", data=form, headers=headers)


@pytest.fixture
def behind(start_server: StartServer) -> Iterator[tuple[Server, TlsProxy]]:
    with TlsProxy() as proxy:
        public = {"RESERVOIR_PUBLIC_URL": proxy.url, "RESERVOIR_TRUSTED_PROXIES": "127.0.0.1/32"}
        server = start_server(public | {"RESERVOIR_OPEN": "yes"})
        proxy.server_port = server.port
        yield server, proxy


def test_an_admin_logs_in_through_a_proxy_that_ends_tls(behind: tuple[Server, TlsProxy]) -> None:
    server, proxy = behind
    login = login_of(server)
    with Browser(proxy) as browser:
        answer = log_in(browser, proxy.url, **login)
        assert (answer.status_code, answer.headers["location"]) == (302, "/admin/")
        session = next(value for value in answer.headers.get_list("set-cookie") if value.startswith("sessionid="))
        assert "Secure" in session and "HttpOnly" in session
        assert answer.headers["strict-transport-security"] == "max-age=31536000"
        page = browser.get(f"{proxy.url}/admin/", headers={"Cookie": cookies(browser)})
        assert page.status_code == 200 and "Dashboard" in page.text
        foreign = browser.post(f"{proxy.url}/admin/login/", headers={"Origin": "https://evil.example"})
        assert foreign.status_code == 403

    proxy.seen_as = "192.0.2.66"
    with Browser(proxy) as browser:
        guesses = (log_in(browser, proxy.url, username="eve", password=f"guess {n}") for n in range(FAILURES + 1))
        found = [answer.status_code for answer in guesses]
        assert (found[0], found[-1], set(found)) == (200, 429, {200, 429})
        assert log_in(browser, proxy.url, **login).status_code == 429  # the address waits, whatever user it names
    proxy.seen_as = "192.0.2.2"
    with Browser(proxy) as browser:
        assert log_in(browser, proxy.url, **login).status_code == 302
    assert login["password"] not in server.log
    assert "guess" not in server.log


def test_a_server_with_a_public_address_does_not_start_without_a_key(start_server: StartServer) -> None:
    with pytest.raises(ServerDied, match=r"Others may reach https://memory\.example\.com, and there is no access key"):
        start_server({"RESERVOIR_PUBLIC_URL": "https://memory.example.com"})


def test_the_deployment_check_is_clean(tmp_path: Path) -> None:
    settings = {"RESERVOIR_PUBLIC_URL": "https://memory.example.com", "RESERVOIR_HOME": str(tmp_path)}
    found = subprocess.run(
        [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"],
        cwd=ROOT,
        env=clean_environment() | settings,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stdout + found.stderr
